"""Checkpoint folders of every family load, and their inputs equal those of the family's own processor."""

from dataclasses import replace

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
    LlavaOnevisionProcessor,
    LlavaProcessor,
    Qwen2_5_VLProcessor,
    Qwen3VLProcessor,
    SmolVLMProcessor,
)

from foveate.core.errors import UnsupportedModel, UnsupportedNeed
from foveate.data.clip import Clip
from foveate.methods import uniform
from foveate.models.loading.load import load
from foveate.models.loading.processor import Parts
from foveate.testing.families import END, FAMILIES, START

OWN = {  # those that do not need torchvision
    "LLaVA-1.5": LlavaProcessor,
    "LLaVA-NeXT": LlavaNextProcessor,
    "Gemma 3": Gemma3Processor,
    "Idefics3": Idefics3Processor,
}
OTHERS = {
    "LLaVA-OneVision": (LlavaOnevisionProcessor, {"num_image_tokens": 36, "vision_feature_select_strategy": "full"}),
    "InternVL": (InternVLProcessor, {"image_seq_length": 9, "start_image_token": "<img>", "end_image_token": "</img>"}),
    "Qwen2.5-VL": (Qwen2_5_VLProcessor, {}),
    "Qwen3-VL": (Qwen3VLProcessor, {}),
    "Qwen3-VL-MoE": (Qwen3VLProcessor, {}),
    "GLM-4.1V": (Glm4vProcessor, {}),
    "GLM-4.5V": (Glm4vProcessor, {}),
    "GLM-4.6V": (Glm46VProcessor, {}),
    "SmolVLM": (
        SmolVLMProcessor,
        {"image_seq_len": 9, "fake_image_token": "<fake_token_around_image>", "global_image_token": "<global-img>"},
    ),
}
QUESTION = "What is it?"


def noise(width, height):
    generator = torch.Generator().manual_seed(width)
    return Image.fromarray(torch.randint(256, (height, width, 3), generator=generator, dtype=torch.uint8).numpy())


IMAGES = [noise(50, 20), noise(61, 60), noise(22, 50)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_every_family_loads_as_it_was_saved(family, loaded_of):
    loaded, model = loaded_of(family), FAMILIES[family]()
    assert type(loaded.model) is type(model)
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), model.parameters(), strict=True))
    assert type(loaded.processor) is OWN.get(family, Parts)
    again = load(loaded.name)
    assert again.identity == loaded.identity
    with torch.no_grad():
        next(again.model.parameters())[0] += 1
    assert replace(again).identity != loaded.identity


@pytest.mark.parametrize("family", OWN)
def test_images_and_prompts_are_those_of_the_familys_processor(family, loaded_of):
    loaded = loaded_of(family)
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    text = loaded.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    for image in IMAGES:
        expected = loaded.processor(images=image, text=text, return_tensors="pt")
        images, (arrangement,) = loaded.image_inputs([image])
        assert loaded.prompt(QUESTION, arrangement) == expected["input_ids"][0].tolist()
        for name in images:
            assert torch.equal(images[name], expected[name])


@pytest.mark.parametrize("family", OTHERS)
def test_prompts_are_those_of_a_processor_that_was_never_given_a_video_half(family, loaded_of):
    loaded, (kind, settings) = loaded_of(family), OTHERS[family]
    parts, tokenizer = loaded.processor, loaded.processor.tokenizer
    own = object.__new__(kind)  # its __init__ needs torchvision
    ratio = getattr(loaded.model.config, "vision_aspect_ratio", None)
    every = {
        "image_processor": parts.image_processor,
        "image_token": tokenizer.image_token,
        "vision_aspect_ratio": ratio,
    }
    for name, value in {**every, **settings}.items():
        object.__setattr__(own, name, value)
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    text = parts.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    for image in IMAGES:
        seen = parts.image_processor([image], return_tensors="pt", **getattr(kind, "images_kwargs", {}))
        written = text.replace(tokenizer.image_token, own.replace_image_token(seen, 0))
        images, (arrangement,) = loaded.image_inputs([image])
        assert loaded.prompt(QUESTION, arrangement) == tokenizer(written)["input_ids"]
        for name in images:
            assert torch.equal(images[name], seen[name])


@torch.no_grad()
@pytest.mark.parametrize("family", [*OWN, *OTHERS])
def test_the_stock_model_takes_them(family, loaded_of):
    """The stock model raises an error if the numbers of placeholders and features differ."""
    loaded = loaded_of(family)
    for image in IMAGES:
        images, (arrangement,) = loaded.image_inputs([image])
        ids = torch.tensor([loaded.prompt(QUESTION, arrangement)])
        kind = loaded.adapter.token_types(ids)
        output = loaded.model.generate(input_ids=ids, **images, **kind, max_new_tokens=2, min_new_tokens=2)
        assert output.shape == (1, ids.shape[1] + 2)


@pytest.mark.parametrize("family", [*OWN, *OTHERS])
def test_images_of_different_shapes_are_arranged_as_each_alone(family, loaded_of):
    loaded = loaded_of(family)
    images, arrangements = loaded.image_inputs(IMAGES)
    for row, image in enumerate(IMAGES):
        alone, (arrangement,) = loaded.image_inputs([image])
        assert arrangements[row] == arrangement
        some = loaded.adapter.chosen(images, [row], arrangements)
        tokens = loaded.adapter.encode(some, arrangement, [])[0]
        torch.testing.assert_close(tokens, loaded.adapter.encode(alone, arrangement, [])[0], atol=1e-5, rtol=0)


def test_internvl_puts_its_own_tokens_around_an_image(loaded_of):
    loaded = loaded_of("InternVL")
    prompt = loaded.prompt(QUESTION, loaded.image_inputs(IMAGES[:1])[1][0])
    image = loaded.adapter.image_token
    first, last = prompt.index(image), len(prompt) - 1 - prompt[::-1].index(image)
    assert (prompt[first - 1], prompt[last + 1]) == (START, END)


@pytest.mark.parametrize("family", [*OWN, *OTHERS])
def test_what_the_template_puts_behind_a_question_is_no_part_of_it(family, loaded_of):
    loaded = loaded_of(family)
    tail = loaded.text_side.tail
    assert loaded.text([list(tail)]) == ["ASSISTANT:"]
    asked = loaded.adapter.question(loaded.prompt(QUESTION), tail)
    assert loaded.text([asked]) == [QUESTION]


def test_a_model_without_videos_names_those_with(loaded_of):
    with pytest.raises(UnsupportedModel, match=r"takes images, not videos.*Qwen3-VL"):
        loaded_of("LLaVA-NeXT").video_inputs([Clip(IMAGES[:1], [0.0])])


@torch.no_grad()
def test_crops_of_gemma_belong_to_their_image_and_have_its_budget(loaded_of):
    """Prompts are those of the stock processor, and a crop of the image is told from another image."""
    plain = loaded_of("Gemma 3")
    options = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 10}
    loaded = replace(plain, image_options=options)
    assert loaded.identity != plain.identity
    images = [noise(90, 30), noise(30, 31), noise(20, 70)]  # three crops, none, four crops
    text = loaded.chat_prompt([None, None, None, QUESTION])
    expected = loaded.processor(images=[images], text=[text], return_tensors="pt", **options)
    inputs = loaded.inputs([text], [images])
    assert inputs["input_ids"].tolist() == expected["input_ids"].tolist()
    assert torch.equal(inputs["pixel_values"], expected["pixel_values"])
    _, arrangements = loaded.image_inputs(images)
    assert [len(arrangement.views) for arrangement in arrangements] == [4, 1, 5]
    assert loaded.adapter.arrangements_in(inputs, inputs["input_ids"]) == arrangements
    generate = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    for compressor, kept in ((uniform(6), [6, 6, 6]), (uniform(1.0), [36, 9, 45])):
        with compressor.attached(loaded) as run:
            output = loaded.model.generate(**inputs, **generate)
        assert [len(one) for one in run.kept] == kept
    assert torch.equal(output, loaded.model.generate(**inputs, **generate))
    with uniform(1.0).attached(loaded.model) as run:  # without a tokenizer
        loaded.model.generate(**inputs, **generate)
    assert [len(one) for one in run.kept] == [9] * 10


def test_a_video_of_glm_is_refused_by_name(loaded_of):
    loaded = loaded_of("GLM-4.1V")
    image, start, end = loaded.adapter.image_token, 3, 2
    for ids, refused in (([5, start, image, end, image], True), ([start, end, image], False)):
        images = loaded.image_inputs(IMAGES[:1])[0]
        if refused:
            with pytest.raises(UnsupportedNeed, match=r"a prompt has a video.*only images are supported"):
                loaded.adapter.arrangements_in(images, torch.tensor([ids]))
        else:
            assert len(loaded.adapter.arrangements_in(images, torch.tensor([ids]))) == 1


def test_idefics_ignores_the_mask_of_padding_and_refuses_a_tile_that_is_masked_in_part(loaded_of):
    loaded = loaded_of("Idefics3")
    text = loaded.chat_prompt([None, QUESTION])
    inputs = loaded.inputs([text, text], [[IMAGES[0]], [IMAGES[1]]])  # three and five tiles
    assert not inputs["pixel_attention_mask"][0, 3:].any()
    inputs["pixel_attention_mask"][0, 3:] = 1
    with uniform(5).attached(loaded) as run:
        loaded.model.generate(**inputs, max_new_tokens=1)
    assert [len(kept) for kept in run.kept] == [5, 5]
    inputs["pixel_attention_mask"][0, 1, :3] = 0
    with pytest.raises(UnsupportedNeed, match="marks padding inside a tile"), uniform(5).attached(loaded):
        loaded.model.generate(**inputs, max_new_tokens=1)


def test_tiles_of_idefics_show_the_parts_of_the_image_that_their_names_say(loaded_of):
    for family in ("Idefics3", "SmolVLM"):
        loaded = loaded_of(family)
        inputs, (wide, square, high) = loaded.image_inputs(IMAGES)
        assert wide.boxes == ((0, 0, 1, 0.5), (0, 0.5, 1, 1), (0, 0, 1, 1))
        assert high.boxes == ((0, 0, 0.5, 1), (0.5, 0, 1, 1), (0, 0, 1, 1))
        assert square.boxes == ((0, 0, 0.5, 0.5), (0, 0.5, 0.5, 1), (0.5, 0, 1, 0.5), (0.5, 0.5, 1, 1), (0, 0, 1, 1))
        text = loaded.chat_prompt([None, "and", None, None, QUESTION])
        ids = loaded.inputs([text], [IMAGES])["input_ids"]
        assert loaded.adapter.arrangements_in(inputs, ids) == [wide, square, high]
