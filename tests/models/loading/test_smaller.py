"""Smaller images: the family's own processor makes them, and the stock model answers about them."""

from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from transformers import Idefics3Processor

from foveate.compressors import AtResolution, Downsample, Identity
from foveate.core.arrangement import Arrangement, Grid
from foveate.core.errors import DataError, FoveateError, UnsupportedNeed
from foveate.data.clip import Clip
from foveate.data.load import load_samples
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.module import Answering
from foveate.methods import vtc_cls
from foveate.methods.fitting import with_fallbacks
from foveate.models.loading.load import load
from foveate.profiling.clock import Clock
from foveate.profiling.speed import Batch, answer_batch
from foveate.testing.checkpoints import save_family
from tests.evaluation.test_family_evaluation import NEW, answers, cropped
from tests.tiers import parametrize

GLM, TILES = ("GLM-4.1V", "GLM-4.5V", "GLM-4.6V"), ("Idefics3", "SmolVLM")
UNAIDED = ("InternVL", "Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-MoE", *TILES, *GLM)
FAMILIES = ("LLaVA-1.5", "LLaVA-NeXT", "LLaVA-OneVision", *UNAIDED)
EVERY = parametrize("family", FAMILIES, fast=("LLaVA-NeXT", "InternVL", "Qwen2.5-VL", "Idefics3"))
STOCK = parametrize("family", UNAIDED, fast=("InternVL", "Qwen2.5-VL", "Idefics3"))
SIZES = ((96, 96), (30, 70), (200, 90))


@cache
def picture(height, width):
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8))


def patches(loaded, image):
    return loaded.image_inputs([image])[1][0].patches


def possible(family, loaded, image):
    """Every number of patches that settings of the image processor alone can give, by running it with each of them."""
    processor, adapter = loaded.processor.image_processor, loaded.adapter
    match family:
        case "LLaVA-1.5":
            return {rows * columns for rows in range(1, 7) for columns in range(1, 7) if max(rows, columns) < 7}
        case "InternVL":
            options = [{"max_patches": n, "size": {"height": s, "width": s}} for n in (1, 2, 3) for s in (8, 16, 24)]
            runs = [(processor([image], return_tensors="pt", crop_to_patches=True, **one), one) for one in options]
            return {len(found["pixel_values"]) * (one["size"]["height"] // 8) ** 2 for found, one in runs}
        case "Idefics3" | "SmolVLM":
            options = [
                {"do_image_splitting": split, "max_image_size": {"longest_edge": s}, "size": {"longest_edge": 2 * s}}
                for split in (False, True)
                for s in (8, 16, 24)
            ]
            runs = [processor([image], return_tensors="pt", **one)["pixel_values"] for one in options]
            return {tiles.shape[1] * (tiles.shape[-1] // 8) ** 2 for tiles in runs}
    token = 2 * 64 if family in GLM else 64  # GLM counts the pixels of both copies of an image
    limits = [{"shortest_edge": token, "longest_edge": n * token} for n in range(1, 26)]
    runs = [processor([image], return_tensors="pt", size=limit)["image_grid_thw"] for limit in limits]
    return {int(grid.prod()) // adapter.side**2 for grid in runs}


@EVERY
@pytest.mark.guards("smaller images: the prompt has the placeholders of another size")
def test_a_prompt_about_a_smaller_image_has_as_many_placeholders_as_the_image_has_tokens(family, loaded_of):
    loaded = loaded_of(family)
    for size in SIZES:
        for keep in (0.6, 0.2, 5):
            small = loaded.smaller(keep)
            inputs = small.inputs([small.chat_prompt([None, "ab"])], [[picture(*size)]])
            with Identity().attached(small) as run, torch.no_grad():
                logits = small.model(**inputs).logits
            visual = int((inputs["input_ids"] == loaded.adapter.image_token).sum())
            assert visual == float(run.tokens) < loaded.image_inputs([picture(*size)])[1][0].length
            assert logits.shape[1] == inputs["input_ids"].shape[1]


@parametrize("family", ("LLaVA-1.5", *UNAIDED), fast=("InternVL", "Qwen2.5-VL", "Idefics3", "GLM-4.1V"))
@pytest.mark.guards("smaller images: the limit of GLM is that of one copy of an image")
def test_no_setting_of_the_processor_comes_nearer_to_the_budget(family, loaded_of):
    loaded = loaded_of(family)
    for size in SIZES:
        image = picture(*size)
        full, counts = patches(loaded, image), possible(family, loaded, image)
        for keep in range(1, full, 3):
            found = patches(loaded.smaller(keep), image)
            # Families of tiles and LLaVA-1.5 leave settings out: tiles first, and no stretching beyond twofold.
            nearest = min(abs(count - keep) for count in counts)
            assert abs(found - keep) == nearest or family in ("InternVL", "LLaVA-1.5", *TILES)
            assert found in counts and abs(found - keep) <= max(nearest, 0.5 * keep)


@parametrize("family", UNAIDED, fast=("Idefics3", "GLM-4.1V"))
@pytest.mark.guards("smaller images: the scaling foretells another number of patches")
def test_the_scaling_has_the_number_of_patches_that_the_processor_makes(family, loaded_of):
    loaded = loaded_of(family)
    for size in (*SIZES, (24, 240), (5, 9), (97, 33), (61, 127), (49, 48)):
        for keep in (1, 0.1, 0.2, 0.35, 0.5, 0.9, 1.0):
            image = picture(*size)
            assert loaded.adapter.scaling(size, keep).patches == patches(loaded.smaller(keep), image)


@parametrize("family", TILES)
def test_images_of_idefics_have_as_many_tiles_as_foretold_whatever_the_sizes_of_its_processor(family, tmp_path):
    loaded = load(save_family(family, tmp_path))
    for longest, tile in ((96, 24), (100, 24), (80, 16)):
        loaded.processor.image_processor.size = {"longest_edge": longest}
        loaded.processor.image_processor.max_image_size = {"longest_edge": tile}
        for size in (*SIZES, (24, 240), (5, 9), (97, 33), (61, 127), (49, 48)):
            full = patches(loaded, picture(*size))
            for keep in (1, 0.1, 0.3, 0.5, 0.8, 1.0):
                found = patches(loaded.smaller(keep), picture(*size))
                assert loaded.adapter.scaling(size, keep).patches == found <= full


def test_prompts_about_smaller_tiles_of_idefics_are_those_of_its_own_processor(loaded_of):
    loaded, image = loaded_of("Idefics3"), picture(96, 96)
    small, tokenizer = loaded.smaller(20), loaded.processor.tokenizer
    text = small.chat_prompt([None, "ab"])
    stock: Any = Idefics3Processor(loaded.processor.image_processor, tokenizer, image_seq_len=4)
    sizes = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}
    expected = stock(text=[text], images=[[image]], return_tensors="pt", add_special_tokens=False, **sizes)
    inputs = small.inputs([text], [[image]])
    for name in ("input_ids", "pixel_values", "pixel_attention_mask"):
        assert torch.equal(inputs[name], expected[name])


def test_images_of_idefics_lose_tiles_before_their_tiles_become_smaller(loaded_of):
    loaded, image = loaded_of("Idefics3"), picture(96, 96)
    alone = {"do_image_splitting": False}
    settings = {9: alone, 4: {**alone, "max_image_size": {"longest_edge": 16}}}
    settings[20] = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}
    for keep, options in settings.items():
        stock = loaded.processor.image_processor([image], return_tensors="pt", **options)
        inputs, (arrangement,) = loaded.smaller(keep).image_inputs([image])
        assert arrangement.patches == keep and torch.equal(inputs["pixel_values"], stock["pixel_values"])


def test_a_prompt_of_idefics_holds_images_of_different_settings_if_their_tiles_have_one_size(tmp_path):
    loaded = load(save_family("Idefics3", tmp_path))
    loaded.processor.image_processor.size = {"longest_edge": 72}
    small, images = loaded.smaller(36), [picture(96, 96), picture(24, 240), picture(24, 24)]
    inputs, arrangements = small.image_inputs(images[:2], [0, 2])
    alone = [small.image_inputs([image])[0]["pixel_values"][0] for image in images[:2]]
    assert [len(arrangement.views) for arrangement in arrangements] == [len(tiles) for tiles in alone] == [5, 4]
    assert torch.equal(inputs["pixel_values"][1], torch.cat(alone)) and not inputs["pixel_values"][0].any()
    assert inputs["pixel_attention_mask"].flatten(2).any(2).sum(1).tolist() == [0, 9]
    with pytest.raises(DataError, match="prepare them one by one"):
        loaded.smaller(0.5).image_inputs(images, [3])


@pytest.mark.parametrize("family", ("LLaVA-NeXT", "LLaVA-OneVision"))
def test_an_image_loses_tiles_before_its_tiles_become_smaller(family, loaded_of):
    loaded, image = loaded_of(family), picture(96, 96)
    tiles = {}
    for keep in (36, 25, 16):
        inputs, (arrangement,) = loaded.smaller(keep).image_inputs([image])
        side = int(keep**0.5)
        assert arrangement == Arrangement((Grid(side, side),), (), (keep,))  # the whole image and one separator
        assert inputs["pixel_values"].shape == (1, 1, 3, 4 * side, 4 * side)
    for keep in (72, 180) if family == "LLaVA-NeXT" else (72,):
        inputs, (arrangement,) = loaded.smaller(keep).image_inputs([image])
        tiles[keep] = inputs["pixel_values"].shape[1]
        assert arrangement.patches == keep and inputs["pixel_values"].shape[-1] == 24
    assert sorted(tiles.values()) == list(tiles.values()) and max(tiles.values()) < 10


def test_the_whole_image_keeps_its_size_at_full_budget(loaded_of):
    for family in FAMILIES:
        loaded, image = loaded_of(family), picture(96, 60)
        plain, kept = loaded.image_inputs([image]), loaded.smaller(1.0).image_inputs([image])
        assert plain[1] == kept[1]
        assert all(torch.equal(plain[0][name], kept[0][name]) for name in plain[0])


@torch.no_grad()
@STOCK
def test_evaluations_of_downsample_answer_as_stock_generate_about_the_smaller_image(family, loaded_of, tmp_path):
    loaded = loaded_of(family)
    config = EvalConfig(Downsample(0.4), loaded.name, limit=6, max_new_tokens=NEW, batch_size=4, out=tmp_path)
    found = answers(config)
    table = evaluate(config).read()
    tokens = dict(zip(table["sample_id"].to_pylist(), table["tokens"].to_pylist(), strict=True))
    small = loaded.smaller(0.4)
    for sample in load_samples("scenes", "test", 6):
        inputs = small.inputs([small.chat_prompt([None, sample.question])], [[sample.image]])
        output = small.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
        assert found[sample.id] == loaded.text(output[:, inputs["input_ids"].shape[1] :].tolist())[0]
        assert tokens[sample.id] == int((inputs["input_ids"] == loaded.adapter.image_token).sum())


def built_for(model, rows):
    """A stock model whose tower takes tiles of so many rows of patches, with positions interpolated in its weights."""
    config = deepcopy(model.config)
    own, side = config.vision_config.image_size, rows * config.vision_config.patch_size
    config.vision_config.image_size = side
    config.image_grid_pinpoints = [[edge * side // own for edge in point] for point in config.image_grid_pinpoints]
    other, weights = type(model)(config).eval(), model.state_dict()
    (name,) = [name for name in weights if name.endswith("position_embedding.weight")]
    table = weights[name]
    head = len(table) - (own // 4) ** 2  # [CLS], if there is one
    grid = table[head:].T.reshape(1, -1, own // 4, own // 4)
    grid = torch.nn.functional.interpolate(grid, (rows, rows), mode="bicubic", align_corners=False)
    weights[name] = torch.cat([table[:head], grid.flatten(2)[0].T])
    other.load_state_dict({key: value for key, value in weights.items() if not key.endswith("position_ids")}, False)
    return other


@torch.no_grad()
@pytest.mark.parametrize("family", ("LLaVA-NeXT", "LLaVA-OneVision"))
@pytest.mark.guards("smaller images: tiles are packed for the tower's own size")
def test_smaller_tiles_equal_a_stock_model_that_was_built_for_them(family, loaded_of):
    loaded, image = loaded_of(family), picture(96, 96)
    keep = 250 if family == "LLaVA-NeXT" else 55  # tiles of five rows
    small = loaded.smaller(keep)
    inputs = small.inputs([small.chat_prompt([None, "ab"])], [[image]])
    assert inputs["pixel_values"].shape[-1] == 20 and inputs["pixel_values"].shape[1] > 1
    stock = built_for(loaded.model, 5)
    with Identity().attached(small):
        found = small.model(**inputs).logits
    torch.testing.assert_close(found, stock(**inputs).logits, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_llava_at_a_resolution_answers_as_with_downsample_attached(loaded_of, tmp_path):
    loaded = loaded_of("LLaVA-1.5")
    config = EvalConfig(Downsample(9), loaded.name, limit=6, max_new_tokens=NEW, batch_size=4, out=tmp_path)
    at = EvalConfig(AtResolution(Identity(), 9), loaded.name, limit=6, max_new_tokens=NEW, batch_size=4, out=tmp_path)
    assert answers(at) == answers(config)
    plain = EvalConfig(Identity(), loaded.name, limit=6, max_new_tokens=NEW, batch_size=4, out=tmp_path)
    tokens = [set(evaluate(one).read()["tokens"].to_pylist()) for one in (at, config, plain)]
    assert tokens == [{9}, {9}, {36}]  # in one folder of encodings


@torch.no_grad()
@parametrize("family", ("LLaVA-1.5", "Idefics3", "GLM-4.1V"))
@pytest.mark.guards("smaller images: their encodings are those of full size")
def test_a_method_at_a_resolution_answers_as_attached_to_smaller_inputs(family, loaded_of, tmp_path):
    loaded = loaded_of(family)
    small, method = loaded.smaller(16), with_fallbacks(vtc_cls(5, 1), loaded)
    config = EvalConfig(AtResolution(method, 16), loaded.name, limit=6, max_new_tokens=NEW, batch_size=4, out=tmp_path)
    found = answers(config)
    assert set(evaluate(config).read()["tokens"].to_pylist()) == {5}
    for sample in load_samples("scenes", "test", 6):
        inputs = small.inputs([small.chat_prompt([None, sample.question])], [[sample.image]])
        with method.attached(small):
            output = small.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
        assert found[sample.id] == loaded.text(output[:, inputs["input_ids"].shape[1] :].tolist())[0]


@torch.no_grad()
@EVERY
def test_smaller_images_of_different_shapes_share_a_batch(family, loaded_of, tmp_path):
    loaded = loaded_of(family)
    some = load_samples("scenes", "test", 36)[::9]
    sizes = [(96, 96), (30, 70), (96, 40), (96, 96)]
    samples = [cropped(sample, *size) for sample, size in zip(some, sizes, strict=True)]
    compressor = AtResolution(Identity(), 0.5)
    small, _ = compressor.resized(loaded)
    encodings = Encodings.of(small, {s.image_id: s.image for s in samples}, tmp_path / "encodings")
    together = Answering(encodings, compressor, NEW).predict_step(samples)
    for sample, record in zip(samples, together, strict=True):
        alone = Answering(encodings, compressor, NEW).predict_step([sample])[0]
        assert (alone.prediction, alone.tokens) == (record.prediction, record.tokens)
        assert record.tokens == small.image_inputs([sample.image])[1][0].length


@torch.no_grad()
def test_the_speed_of_a_smaller_image_is_that_of_its_tokens(loaded_of):
    loaded = loaded_of("LLaVA-1.5")
    small, method = AtResolution(vtc_cls(5, 1), 16).resized(loaded)
    batch = Batch.of(small, [picture(96, 96)], ["ab"])
    found = answer_batch(batch, method, 2, Clock(small.device))
    assert batch.arrangements[0].patches == 16 and float(found.visual) == 5


@pytest.mark.parametrize("family", ("LLaVA-NeXT", "Qwen2.5-VL"))
def test_downsample_attached_to_pixels_of_full_size_says_what_to_do_instead(family, loaded_of):
    loaded = loaded_of(family)
    inputs = loaded.inputs([loaded.chat_prompt([None, "ab"])], [[picture(96, 96)]])
    with (
        Downsample(9).attached(loaded),
        pytest.raises(UnsupportedNeed, match=r"smaller\(keep\)\.inputs"),
    ):
        loaded.model(**inputs)


def test_a_method_at_a_resolution_cannot_be_attached_and_says_what_to_do_instead(loaded_of):
    loaded = loaded_of("LLaVA-1.5")
    inputs = loaded.inputs([loaded.chat_prompt([None, "ab"])], [[picture(96, 96)]])
    with AtResolution(vtc_cls(5, 1), 16).attached(loaded), pytest.raises(FoveateError, match=r"smaller\(16\)"):
        loaded.model(**inputs)


def test_a_family_without_a_rule_names_what_is_missing(loaded_of):
    with pytest.raises(UnsupportedNeed, match="define `scaling` in LlavaOnevisionVideos"):
        loaded_of("LLaVA-OneVision").adapter.other.scaling((96, 96), 4)
    for family in ("LLaVA-OneVision", "InternVL"):
        with pytest.raises(UnsupportedNeed, match="no rule for smaller videos"):
            loaded_of(family).smaller(4).video_inputs([Clip([picture(96, 96)], [0.0])])


FRAMES = Clip([picture(96, 96)] * 4, [0.0, 0.5, 1.0, 1.5])


def possible_frames(family, loaded):
    """Every number of tokens of a frame that a smaller video can have."""
    if family == "LLaVA-NeXT-Video":
        return {rows**2 for rows in range(1, 4)}
    return possible(family, loaded, picture(96, 96))


@pytest.mark.parametrize("keep", [0.25, 6, 1.0])
@pytest.mark.parametrize("family", ["LLaVA-NeXT-Video", "Qwen2.5-VL", "Qwen3-VL"])
def test_smaller_videos_have_the_nearest_number_of_tokens_and_are_answered(loaded_of, family, keep):
    loaded = loaded_of(family)
    (full,) = loaded.video_inputs([FRAMES])[1]
    small = loaded.smaller(keep)
    inputs, (video,) = small.video_inputs([FRAMES])
    frame = full.patches // full.frames
    wanted = (keep if keep == 6 else keep * full.patches) / full.frames
    counts = {count for count in possible_frames(family, loaded) if count <= frame} | {frame}
    assert video.patches // video.frames == min(counts, key=lambda count: (abs(count - wanted), count))
    assert (video.frames, video.seconds) == (full.frames, full.seconds)
    ids = torch.tensor([small.prompt("ab", video)])
    asked = {"input_ids": ids, **inputs, "max_new_tokens": 3, "do_sample": False}
    with Identity().attached(small) as run:
        answer = small.model.generate(**asked)
    assert run.kept[0].tolist() == list(range(video.patches))
    if family != "LLaVA-NeXT-Video":  # whose stock tower takes one size
        assert torch.equal(answer, small.model.generate(**asked, **small.adapter.token_types(ids)))


def test_smaller_frames_of_llava_next_video_are_resized_pixels(loaded_of):
    loaded = loaded_of("LLaVA-NeXT-Video")
    full, small = (one.video_inputs([FRAMES])[0]["pixel_values_videos"] for one in (loaded, loaded.smaller(16)))
    assert full.shape[-2:] == (24, 24) and small.shape[-2:] == (16, 16)
    blurred = full[0].unflatten(-1, (8, 3)).unflatten(-3, (8, 3)).mean((-1, -3))  # both at 8 x 8
    assert (
        torch.corrcoef(
            torch.stack(
                [blurred.flatten(), small[0].unflatten(-1, (8, 2)).unflatten(-3, (8, 2)).mean((-1, -3)).flatten()]
            )
        )[0, 1]
        > 0.97
    )


def test_an_image_that_the_processor_refuses_is_named_at_any_size(loaded_of):
    loaded = loaded_of("Qwen2.5-VL")
    for one in (loaded, loaded.smaller(0.5)):
        with pytest.raises(DataError, match="takes no image of '1000 x 2'"):
            one.image_inputs([picture(2, 1000)])


def test_an_image_that_is_stored_on_its_side_is_grouped_by_its_upright_size(loaded_of):
    small, upright = loaded_of("LLaVA-OneVision").smaller(0.5), picture(90, 30)
    assert small.together([upright, picture(30, 90)]) == [[0], [1]]
    sideways = upright.transpose(Image.Transpose.ROTATE_90)
    sideways.getexif()[ExifTags.Base.Orientation] = 6
    assert small.together([upright, sideways]) == [[0, 1]]


def test_an_image_that_the_processor_refuses_is_skipped_or_named_at_any_size(loaded_of, tmp_path):
    images = {"good": picture(96, 96), "thin": picture(2, 1000)}
    for number, one in enumerate((loaded_of("Qwen2.5-VL"), loaded_of("Qwen2.5-VL").smaller(0.5))):
        assert set(Encodings.of(one, images, tmp_path / f"skipped {number}", skip=True).arrangements) == {"good"}
        with pytest.raises(DataError, match="image 'thin': the model's image processor takes no image"):
            Encodings.of(one, images, tmp_path / f"stopped {number}")


def test_gemma_refuses_smaller_images_and_says_why(loaded_of):
    with pytest.raises(UnsupportedNeed, match="has no rule for smaller images: its tower and projector make 9 tokens"):
        loaded_of("Gemma 3").smaller(4).image_inputs([picture(96, 96)])


@pytest.mark.parametrize(("family", "keep"), [("LLaVA-NeXT", 40), ("InternVL", 0.2)])
def test_several_images_whose_tiles_differ_in_size_are_refused_in_one_call(family, keep, loaded_of):
    small, images = loaded_of(family).smaller(keep), [picture(200, 90), picture(96, 96), picture(24, 240)]
    with pytest.raises(DataError, match="prepare them one by one"):
        small.image_inputs(images)
    groups = small.together(images)
    assert sorted(row for rows in groups for row in rows) == [0, 1, 2] and len(groups) > 1
    for rows in groups:
        found = small.image_inputs([images[row] for row in rows])[1]
        assert found == [small.image_inputs([images[row]])[1][0] for row in rows]


def test_a_smaller_model_keeps_the_identity_of_its_checkpoint(loaded_of):
    loaded = loaded_of("LLaVA-1.5")
    small = loaded.smaller(9)
    assert small.identity == loaded.identity and small.smaller(4).original is loaded
