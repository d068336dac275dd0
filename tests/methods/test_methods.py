import inspect
import math
import sys

import numpy as np
import pytest
import torch

from foveate.compressors import Compressor, VisionCompressor
from foveate.core.errors import BudgetError, UnknownMethod
from foveate.methods import METHODS
from foveate.methods.fitting import aligned, method, options_for
from foveate.models.loading.load import load
from foveate.scorers import ClsAttention
from tests.golden_llava import exact_llava, golden_llava, golden_pixels, golden_prompt
from tests.tiers import parametrize

SIDE, DEPTH = 24, 8
# what needs neither annotated data, nor a companion, nor the image processor, which a model alone does not have
BARE = sorted(
    set(METHODS)
    - {"evidence", "cdpruner", "trim", "visiontrim", "saturation", "contrast", "edges"}
    - {"evs", "dycoke", "fewer_frames", "temporal_mean"}  # videos of several frames only
    - {"fastvid"}  # a tower with a pooling head, or a fallback
)


def own(keep):
    return VisionCompressor(ClsAttention(-3), keep)


@pytest.mark.parametrize("name", METHODS)
def test_recipes_are_values(name):
    one, other = METHODS[name](keep=36), METHODS[name](keep=36)
    assert isinstance(one, Compressor)
    assert one == other
    assert repr(one) == repr(other)
    assert hash(one) == hash(other)


@pytest.mark.parametrize("name", METHODS)
def test_recipes_are_short(name):
    source = inspect.getsource(METHODS[name])
    code = source.split('"""')[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10


@pytest.mark.parametrize("name", BARE)
def test_the_plan_is_what_becomes_of_an_image(name):
    """Exactly, but for the methods whose count depends on the image."""
    compressor = METHODS[name](keep=64, **options_for(METHODS[name], 24, DEPTH))
    with torch.no_grad(), compressor.attached(golden_llava()) as run:
        golden_llava().generate(
            input_ids=golden_prompt(), pixel_values=golden_pixels(), max_new_tokens=1, do_sample=False
        )
    measured, planned = run.tokens.per_block[0].numpy(), np.array(compressor.plan(576, DEPTH))
    if name == "prumerge_plus":
        assert abs(measured - planned).max() < 5
    elif name in ("feather", "sttm", "llava_scissor"):
        assert abs(measured - planned).max() < 10
    else:
        np.testing.assert_array_equal(measured, planned)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"full", "blind"}))
@pytest.mark.parametrize("equivalent", (36, 100))
def test_aligned_settings_have_the_wanted_equivalent_tokens(name, equivalent):
    recipe = METHODS[name]
    try:
        compressor = aligned(recipe, equivalent, 576, 32, **options_for(recipe, 24, 32))
    except BudgetError as error:
        assert name in ("pyramiddrop", "sparsevlm", "sparsevlm_plus", "feather", "dart", "dycoke")
        assert equivalent == 36 or name in ("pyramiddrop", "feather", "dycoke")
        assert f"{name} cannot come near {equivalent} equivalent tokens of 576 in 32 blocks: nearest are" in str(error)
        return
    found = np.mean(compressor.plan(576, 32))
    assert abs(found - equivalent) <= max(1, equivalent / 10)


@pytest.mark.parametrize("keep", (3, 50, 77, 200))
@pytest.mark.parametrize("name", ("pool", "downsample"))
def test_a_pooled_grid_plans_the_tokens_that_it_has(name, keep):
    compressor = METHODS[name](keep)
    with torch.no_grad(), compressor.attached(golden_llava()) as run:
        golden_llava().generate(input_ids=golden_prompt(), pixel_values=golden_pixels(), max_new_tokens=1)
    assert run.tokens.per_block[0].tolist() == list(compressor.plan(576, DEPTH))


def test_published_conversions_of_fastv():
    """Tables of methods.md: K=2 needs R=166, 98 and 30 for 192, 128 and 64 equivalent tokens in 32 blocks."""
    for equivalent, kept in ((192, 166), (128, 98), (64, 30)):
        assert aligned(METHODS["fastv"], equivalent, 576, 32, layer=2).keep in (kept, kept + 1)


def test_published_averages_of_the_progressive_methods():
    assert np.mean(METHODS["pyramiddrop"]().plan(576, 32)) == 270
    entering = [np.mean(METHODS["sparsevlm"](keep).plan(576, 32)) for keep in (192, 128, 96, 64)]
    np.testing.assert_allclose(entering, (206.5, 145.4, 114.1, 82.3), atol=0.06)
    assert np.mean(METHODS["dart"](128).plan(576, 32)) == pytest.approx(159.75)
    assert np.mean(METHODS["vtw"]().plan(576, 32)) == 270
    assert [np.mean(METHODS["vscan"](keep).plan(576, 32)) for keep in (192, 128, 64)] == [192, 128, 64]


def test_prumerge_plus_meets_its_budget_on_any_grid():
    for patches in (144, 576, 729):
        for keep in (16, 50, 64, 100, 128):
            if patches != 576 or keep not in (64, 128):
                assert METHODS["prumerge_plus"](keep).plan(patches, 1)[0] == pytest.approx(keep + 1, abs=2)


def test_layers_are_scaled_to_the_model():
    assert options_for(METHODS["vtc_cls"], 24, 32) == {"start_layer": 16}
    assert options_for(METHODS["vtc_cls"], 6, 4) == {"start_layer": 3}
    assert options_for(METHODS["hiprune"], 24, 32) == {"object_layer": 9}
    assert options_for(METHODS["hiprune"], 6, 4) == {"object_layer": 3}
    assert options_for(METHODS["pyramiddrop"], 24, 32) == {"layers": (8, 16, 24)}
    assert options_for(METHODS["pyramiddrop"], 6, 4) == {"layers": (1, 2, 3)}
    assert options_for(METHODS["sparsevlm"], 6, 4) == {"after": (0, 1, 2)}
    assert options_for(METHODS["fastv"], 6, 4) == {"layer": 1}
    assert options_for(METHODS["fastervlm"], 6, 4) == {}


def test_unknown_methods_are_told_their_like():
    with pytest.raises(UnknownMethod, match=r"'fastvlm' is unknown; did you mean .*fastv"):
        method("fastvlm")
    with pytest.raises(UnknownMethod, match=r"'qqq' is unknown; known are full, blind"):
        method("qqq")
    with pytest.raises(UnknownMethod, match=r"'no_such_module:recipe' cannot be imported.*PYTHONPATH"):
        method("no_such_module:recipe")
    with pytest.raises(UnknownMethod, match=r"cannot be imported.*nothing_here"):
        method(f"{__name__}:nothing_here")


def test_a_recipe_of_ones_own_is_found_by_module_and_function(monkeypatch):
    monkeypatch.setitem(sys.modules, "somebody.else_", sys.modules[__name__])
    assert method("somebody.else_:own")(9) == own(9)


@parametrize("name", BARE, fast=("tome", "vtc_cls", "fastv"))
def test_a_batch_gives_what_single_images_give(name):
    pixels, prompt = golden_pixels(3).double(), golden_prompt()
    pixels[1] = pixels[1].mean((1, 2), keepdim=True) + 0.01 * pixels[1]  # nearly one colour: other counts, near ties
    compressor = METHODS[name](keep=70, **options_for(METHODS[name], 24, DEPTH))
    options = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False}
    with torch.no_grad(), compressor.attached(exact_llava()) as run:
        together = exact_llava().generate(input_ids=prompt.expand(3, -1), pixel_values=pixels, **options)
        kept, blocks = run.kept, run.tokens.per_block
        for row in range(3):
            alone = exact_llava().generate(input_ids=prompt, pixel_values=pixels[row : row + 1], **options)
            assert run.kept[0].tolist() == kept[row].tolist()
            assert run.tokens.per_block[0].tolist() == blocks[row].tolist()
            assert alone[0].tolist() == together[row].tolist()


def test_text_aware_methods_read_the_prompt_of_a_loaded_model():
    from foveate.data.load import load_samples

    loaded, samples = load(), load_samples("scenes", "search", limit=24)
    asked = [samples[0], samples[1], samples[13]]
    texts = [
        loaded.processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": sample.question}]}],
            add_generation_prompt=True,
        )
        for sample in asked
    ]
    for name in ("cdpruner", "trim", "mmtok", "visiontrim", "response_attention"):
        kept = []
        for rows in ((0, 1, 2), (0,), (1,), (2,)):
            inputs = loaded.processor(
                text=[texts[i] for i in rows],
                images=[asked[i].image for i in rows],
                padding=True,
                return_tensors="pt",
            )
            with METHODS[name](keep=16).attached(loaded) as run:
                loaded.model.generate(**inputs, max_new_tokens=1)
            compression = run.decisions[0].compression
            merged = [None] * len(rows) if name != "visiontrim" else (compression.mixing > 0).tolist()
            kept.append([(patches.tolist(), more) for patches, more in zip(run.kept, merged, strict=True)])
        assert kept[0] == [row[0] for row in kept[1:]]
        assert kept[0][0] != kept[0][1]  # one image, two questions; VisionTrim reads them when it merges
        assert math.isclose(float(run.tokens), 16 + (name == "trim"))
