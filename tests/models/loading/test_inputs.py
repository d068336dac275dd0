"""`LoadedModel.inputs` equals the output of the family authors' processor, key by key and value by value."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    Gemma3Processor,
    Glm4vProcessor,
    Glm46VProcessor,
    Idefics3Processor,
    InternVLProcessor,
    LlavaNextProcessor,
    LlavaNextVideoProcessor,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    Qwen2_5_VLProcessor,
    Qwen3VLProcessor,
    SmolVLMProcessor,
)
from transformers.feature_extraction_utils import BatchFeature
from transformers.models.smolvlm import processing_smolvlm

from foveate.core.errors import DataError, FoveateError
from foveate.data.clip import Clip
from foveate.methods import fastv, full, random, uniform
from foveate.models.loading.load import load
from foveate.testing.checkpoints import save_family
from foveate.testing.families import VIDEOS, WITHOUT_CUTS

CLIP = {"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
OWN = {
    "LLaVA-1.5": (LlavaProcessor, CLIP),
    "LLaVA-NeXT": (LlavaNextProcessor, CLIP),
    "LLaVA-OneVision": (
        LlavaOnevisionProcessor,
        {"num_image_tokens": 36, "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_2"},
    ),
    "LLaVA-NeXT-Video": (LlavaNextVideoProcessor, CLIP),
    "InternVL": (InternVLProcessor, {"image_seq_length": 9}),
    "Qwen2.5-VL": (Qwen2_5_VLProcessor, {}),
    "Qwen3-VL": (Qwen3VLProcessor, {}),
    "Qwen3-VL-MoE": (Qwen3VLProcessor, {}),
    "GLM-4.1V": (Glm4vProcessor, {}),
    "GLM-4.5V": (Glm4vProcessor, {}),
    "GLM-4.6V": (Glm46VProcessor, {}),
    "Gemma 3": (Gemma3Processor, {"image_seq_length": 9}),
    "Idefics3": (Idefics3Processor, {"image_seq_len": 9}),
    "SmolVLM": (SmolVLMProcessor, {"image_seq_len": 9}),
}
WITH_VIDEOS = (
    "LLaVA-OneVision",
    "InternVL",
    "Qwen2.5-VL",
    "Qwen3-VL",
    "Qwen3-VL-MoE",
    "GLM-4.1V",
    "GLM-4.5V",
    "GLM-4.6V",
    "SmolVLM",
    "LLaVA-NeXT-Video",
)


def noise(width, height):
    generator = torch.Generator().manual_seed(100 * width + height)
    return Image.fromarray(torch.randint(256, (height, width, 3), generator=generator, dtype=torch.uint8).numpy())


WIDE, SQUARE, HIGH = noise(50, 20), noise(61, 60), noise(22, 50)
TURNS = {
    "before": ([WIDE, "What is it?"], ""),
    "behind": (["What is it?", SQUARE], ""),
    "between": (["Look at ", HIGH, " and say what it is."], ""),
    "with a system prompt": ([WIDE, "What is it?"], "Be brief. "),
    "two": ([WIDE, SQUARE, "Which is larger?"], ""),
    "two apart": (["Here ", SQUARE, " and there ", HIGH, ": which is larger?"], "Think. "),
    "three": ([HIGH, WIDE, HIGH, "Which are the same?"], ""),
    "none": (["Hello."], ""),
}
BATCHES = {
    **{name: [name] for name in TURNS},
    "of one each": ["before", "behind", "with a system prompt"],
    "of several each": ["two apart", "three"],
    "of different numbers": ["two", "before", "three", "behind"],
    "with and without": ["none", "between", "none", "two", "none"],
}


def own_processor(family, loaded):
    """Returns the authors' processor without its video processor, which needs torchvision and is not used here."""
    kind, settings = OWN[family]
    parts = loaded.processor
    if family in WITH_VIDEOS:
        kind = type(kind.__name__, (kind,), {"check_argument_for_proper_class": lambda self, name, value: type(value)})
        video = SimpleNamespace(model_input_names=["pixel_values_videos"], num_frames=1, fps=1)
        settings = {**settings, "video_processor": video}
    processing_smolvlm.num2words = str  # a package that writes the numbers of frames
    return kind(
        image_processor=parts.image_processor,
        tokenizer=parts.tokenizer,
        chat_template=parts.chat_template,
        **settings,
    )


@pytest.fixture(scope="module")
def loaded_of(tmp_path_factory):
    known = {}

    def get(family):
        if family not in known:
            known[family] = load(save_family(family, tmp_path_factory.mktemp("family")))
            known[family].processor.tokenizer.model_input_names = ["input_ids", "attention_mask"]  # as of all of them
        return known[family]

    return get


def conversation(name):
    content, system = TURNS[name]
    parts = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}
        for part in content
    ]
    turns = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    return [*turns, {"role": "user", "content": parts}]


def ours(loaded, batch):
    turns = [TURNS[name] for name in batch]
    texts = [
        loaded.chat_prompt([p if isinstance(p, str) else None for p in content], system) for content, system in turns
    ]
    return loaded.inputs(texts, [[part for part in content if not isinstance(part, str)] for content, _ in turns])


def theirs(family, loaded, batch):
    return own_processor(family, loaded).apply_chat_template(
        [conversation(name) for name in batch],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("family", OWN)
def test_inputs_are_those_of_the_authors_processor(family, batch, loaded_of):
    loaded = loaded_of(family)
    found, expected = ours(loaded, BATCHES[batch]), theirs(family, loaded, BATCHES[batch])
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


@torch.no_grad()
@pytest.mark.parametrize("family", OWN)
def test_compression_that_keeps_all_answers_as_the_stock_model_that_is_given_them(family, loaded_of):
    """The batch has prompts with one image and with several."""
    loaded = loaded_of(family)
    inputs = ours(loaded, ["two", "before", "three", "behind"])
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    logits = {"return_dict_in_generate": True, "output_logits": True}
    stock = loaded.model.generate(**inputs, **options, **logits)
    for compressor in (full(), uniform(1.0)):
        with compressor.attached(loaded) as run:
            output = loaded.model.generate(**inputs, **options, **logits)
        assert torch.equal(output.sequences, stock.sequences)
        torch.testing.assert_close(torch.stack(output.logits), torch.stack(stock.logits), atol=1e-4, rtol=1e-4)
        assert len(run.kept) == 7


@torch.no_grad()
@pytest.mark.parametrize(
    "compressor, batch",
    [
        (uniform(5), ["two", "before", "three", "behind"]),
        (random(5), ["two", "before", "three", "behind"]),
        (fastv(9, 3), ["two", "two apart"]),  # a budget inside the language model counts a prompt's images together
    ],
    ids=["uniform", "random", "fastv"],
)
@pytest.mark.parametrize("family", OWN)
def test_prompts_with_several_images_are_compressed_as_each_alone(family, compressor, batch, loaded_of):
    loaded = loaded_of(family)
    if compressor.cuts and family in WITHOUT_CUTS:
        with pytest.raises(FoveateError, match="sliding_window"), compressor.attached(loaded):
            pass
        return
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    together = ours(loaded, batch)
    with compressor.attached(loaded):
        output = loaded.model.generate(**together, **options)[:, -4:]
        alone = [loaded.model.generate(**ours(loaded, [name]), **options)[0, -4:] for name in batch]
    assert output.tolist() == [row.tolist() for row in alone]


def test_onevision_cuts_only_the_image_of_a_prompt_with_one(loaded_of):
    loaded = loaded_of("LLaVA-OneVision")
    inputs, (one, *several) = loaded.image_inputs([WIDE, WIDE, SQUARE], [1, 2])
    assert inputs["batch_num_images"].tolist() == [1, 2]
    assert len(one.views) == 2
    assert several[0] == several[1]
    assert (several[0].patches, several[0].length, several[0].boxes) == (36, 37, ())
    assert loaded.image_inputs([WIDE])[1] == loaded.image_inputs([WIDE], [0, 1, 0])[1] == [one]
    with torch.no_grad():
        stock = loaded.model.get_image_features(**inputs, return_dict=True).pooler_output
        some = loaded.adapter.chosen(inputs, [1, 2], [one, *several])
        tokens = loaded.adapter.encode(some, several[0], [])[0]
    torch.testing.assert_close(tokens, torch.stack([image[:-1] for image in stock[1:]]), atol=1e-5, rtol=0)
    assert torch.equal(stock[1][-1], loaded.adapter.separator)


@pytest.mark.parametrize("counts", [[1, 1], [1, 2, 1]])
def test_numbers_of_images_that_do_not_fit_are_named(counts, loaded_of):
    loaded = loaded_of("LLaVA-OneVision")
    inputs = {**loaded.image_inputs([WIDE, WIDE, SQUARE])[0], "batch_num_images": torch.tensor(counts)}
    with pytest.raises(ValueError, match=r"batch_num_images \[1.* for 3 images: expected the number"):
        loaded.adapter.arrangements(inputs, [])


@pytest.mark.parametrize("family", ["LLaVA-NeXT", "LLaVA-OneVision"])
def test_tiles_without_their_images_are_named(family, loaded_of):
    loaded = loaded_of(family)
    inputs = loaded.image_inputs([WIDE])[0]
    flat = {**inputs, "pixel_values": inputs["pixel_values"].flatten(0, 1)}
    with pytest.raises(ValueError, match=r"pixel_values of shape \(.*\): expected \(image, tile"):
        loaded.adapter.arrangements(flat, [])


class Frames:
    """Stands in for the authors' video processor, which needs torchvision: it returns what it is given."""

    model_input_names = ("pixel_values_videos",)
    merge_size = temporal_patch_size = 2
    num_frames = fps = None

    def __init__(self, prepared):
        self.prepared = prepared

    def __call__(self, videos, **options):
        return BatchFeature(self.prepared)


CLIPS = {
    "even": Clip([noise(40, 24) for _ in range(4)], [0.0, 0.5, 1.0, 1.5]),
    "odd": Clip([noise(24, 40) for _ in range(3)], [0.0, 0.25, 0.75]),
    "single": Clip([SQUARE], [2.0]),
}


@pytest.mark.parametrize("which", CLIPS)
@pytest.mark.parametrize("family", VIDEOS)
def test_prompts_about_a_video_and_an_image_are_those_of_the_authors_processor(family, which, loaded_of):
    loaded, clip = loaded_of(family), CLIPS[which]
    turn = [{"type": "video"}, {"type": "text", "text": "then "}, {"type": "image"}, {"type": "text", "text": "what?"}]
    text = loaded.conversation([{"role": "user", "content": turn}])
    found = loaded.inputs([text], [[WIDE]], videos=[[clip]])
    prepared = {name: value for name, value in found.items() if "video" in name}
    if family == "InternVL":  # whose processor puts videos and images into one tensor, in the order of the prompt
        prepared = {"pixel_values_videos": loaded.video_inputs([clip])[0]["pixel_values"][None]}
    times = SimpleNamespace(fps=1.0, frames_indices=list(clip.seconds), sampled_fps=clip.fps)
    author = own_processor(family, loaded)
    author.video_processor = Frames({**prepared, "video_metadata": [times]})
    names = {name: value for name, value in found.items() if name not in prepared}
    images = author.image_processor([WIDE], return_tensors="pt")
    expected = author(text=[text], images=[WIDE], videos=[np.zeros((2, 8, 8, 3), np.uint8)], return_tensors="pt")
    assert set(names) <= {*expected, *images}
    for name, value in names.items():
        assert torch.equal(value, torch.as_tensor(expected[name])), name


@torch.no_grad()
@pytest.mark.parametrize("family", VIDEOS)
def test_a_video_and_an_image_in_one_prompt_are_both_compressed(family, loaded_of):
    loaded, clip = loaded_of(family), CLIPS["even"]
    turn = [{"type": "image"}, {"type": "text", "text": "a "}, {"type": "video"}, {"type": "text", "text": "what?"}]
    text = loaded.conversation([{"role": "user", "content": turn}])
    inputs = loaded.inputs([text, text], [[WIDE], [HIGH]], videos=[[clip], [clip]])
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    stock = loaded.model.generate(**inputs, **options)
    with uniform(1.0).attached(loaded):
        assert torch.equal(loaded.model.generate(**inputs, **options), stock)
    with uniform(3).attached(loaded) as run:
        loaded.model.generate(**inputs, **options)
    assert [len(kept) for kept in run.kept] == [3] * 4


@torch.no_grad()
def test_videos_and_images_of_internvl_are_told_apart_by_their_order(loaded_of):
    """Two videos of other lengths stand next to each other, and an image behind a text that begins like a frame."""
    loaded = loaded_of("InternVL")
    kinds = ["video", "video", "image", "text", "image", "video"]
    turn = [{"type": kind, **({"text": "Frame2 "} if kind == "text" else {})} for kind in kinds]
    text = loaded.conversation([{"role": "user", "content": turn}])
    clips = [CLIPS[name] for name in ("even", "odd", "single")]
    inputs = loaded.inputs(["Hello.", text], [[], [WIDE, SQUARE]], videos=[[], clips])
    images, (wide, square) = loaded.image_inputs([WIDE, SQUARE])
    videos, (even, odd, single) = loaded.video_inputs(clips)
    assert [video.frames for video in (even, odd, single)] == [4, 3, 1]
    in_order = [even, odd, wide, square, single]
    assert loaded.adapter.arrangements_in(inputs, inputs["input_ids"]) == in_order
    tiles = len(wide.views) + len(square.views)
    expected = [videos["pixel_values"][:7], images["pixel_values"][:tiles], videos["pixel_values"][7:]]
    assert torch.equal(inputs["pixel_values"], torch.cat(expected))
    with uniform(3).attached(loaded) as run:
        loaded.model.generate(**inputs, max_new_tokens=2)
    assert [len(kept) for kept in run.kept] == [3] * 5
    with uniform(3).attached(loaded.model) as run:  # without a tokenizer that reads the names of frames
        loaded.model.generate(**inputs, max_new_tokens=2)
    assert len(run.kept) == 4 + 3 + 2 + 1


@pytest.mark.parametrize("words", ["Frame1: ", "What is in Frame1: "])
def test_an_image_that_could_be_a_frame_of_internvl_is_refused(words, loaded_of):
    loaded = loaded_of("InternVL")
    assert loaded.inputs([loaded.chat_prompt([words, None, "?"])], [[WIDE]])  # of several tiles
    with pytest.raises(DataError, match=r"behind the words .* such as 'Frame1: ', so that .* cannot be told apart"):
        loaded.inputs([loaded.chat_prompt([words, None, "?"])], [[noise(24, 24)]])


@pytest.mark.parametrize("family", ["Qwen2.5-VL", "Qwen3-VL"])
def test_frames_are_merged_in_pairs_in_their_order(family, loaded_of):
    """Frames of one colour each: every patch holds the colours of its two frames."""
    loaded = loaded_of(family)
    levels = [0, 60, 120, 180, 240]
    clip = Clip([Image.new("RGB", (16, 8), (level,) * 3) for level in levels], [float(n) for n in range(5)])
    inputs, (video,) = loaded.video_inputs([clip])
    processor = loaded.processor.image_processor
    patches = inputs["pixel_values_videos"].unflatten(1, (3, 2, -1))
    colours = (
        patches * torch.tensor(processor.image_std)[:, None, None] + torch.tensor(processor.image_mean)[:, None, None]
    )
    found = (colours * 255).unflatten(0, (3, -1))
    pairs = torch.tensor([[0, 60], [120, 180], [240, 240]]).float()
    expected = pairs[:, None, None, :, None].expand_as(found)
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)
    assert video.frames == 3 and inputs["video_grid_thw"][0, 0] == 3
    assert video.seconds == ((0.0, 2.0, 4.0) if family == "Qwen2.5-VL" else (0.5, 2.5, 4.0))


@pytest.mark.parametrize("family", ["LLaVA-OneVision", "LLaVA-NeXT-Video"])
def test_videos_of_other_lengths_are_prepared_one_by_one(family, loaded_of):
    with pytest.raises(DataError, match=r"videos of 3, 4 frames: one call .* equally many"):
        loaded_of(family).video_inputs([CLIPS["even"], CLIPS["odd"]])


@pytest.mark.parametrize("family", WITH_VIDEOS)
def test_the_token_of_what_is_not_given_is_named_as_the_processor_refuses_it(family, loaded_of):
    loaded = loaded_of(family)
    with pytest.raises(DataError, match="has '<video>', a placeholder for an input that is not given"):
        loaded.inputs(["What is <video>?"], [[]])
    with pytest.raises(ValueError, match=r"but no videos were passed"):
        own_processor(family, loaded)(text=["What is <video>?"])


def test_prompts_and_images_that_do_not_fit_are_named(loaded_of):
    loaded = loaded_of("LLaVA-1.5")
    with pytest.raises(DataError, match="has 1 image tokens for 2 images"):
        loaded.inputs([loaded.chat_prompt([None, "?"])], [[WIDE, HIGH]])
    with pytest.raises(DataError, match="1 prompts and images for 2"):
        loaded.inputs([loaded.chat_prompt([None, "?"])], [[WIDE], [HIGH]])
    with pytest.raises(DataError, match="is a str: expected a PIL image"):
        loaded.image_inputs(["table.jpg"])
