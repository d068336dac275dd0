"""Where a tower has no [CLS], or only sees windows, received attention stands in, against the tower's own answers."""

from functools import cache

import pytest
import torch

from foveate.compressors import DecoderCompressor, Fallback, Pipeline
from foveate.core.errors import LayerError, UnsupportedNeed
from foveate.core.layers import LayersFrom
from foveate.core.needs import Features, FrameVectors, PoolingRows, ReceivedRows
from foveate.core.trace import Trace
from foveate.methods import (
    fastv,
    fastvid,
    hiprune,
    prumerge,
    pyramiddrop,
    sparsevlm,
    visionzip,
    vispruner,
    vscan,
    vtc_cls,
)
from foveate.methods.fitting import options_for, with_fallbacks
from foveate.models.loading.load import adapt
from foveate.scorers import ClsEnsemble, Hybrid, PromptAttention
from foveate.testing.families import FAMILIES, image_inputs, llava_onevision
from tests.videos import ArrayVideos, drawn_videos

WITHOUT_CLS = ("LLaVA-OneVision", "Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-MoE")
NEAREST = {"Qwen2.5-VL": (1, 1, 3, 3)}  # windows in layers 0 and 2, which lies between two that see everything


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


@cache
def model_of(family):
    return FAMILIES[family]()


def received(family, layer):
    """(head, patch): what the tower's patches receive, which test_family_towers holds against eager attention."""
    adapter, image = adapt(model_of(family)), image_inputs(family)[0]
    (arrangement,) = adapter.arrangements(image, [])
    return adapter.encode(image, arrangement, [ReceivedRows(layer)])[1][ReceivedRows(layer)][0]


def seen(family, compressor):
    """The run of a compressor over a prompt about the family's first image."""
    model, image = model_of(family), image_inputs(family)[0]
    adapter = adapt(model)
    (arrangement,) = adapter.arrangements(image, [])
    ids = torch.tensor([[5, 6, *[adapter.image_token] * arrangement.length, 9, 10]])
    kind = {"mm_token_type_ids": (ids == adapter.image_token).int()} if "image_grid_thw" in image else {}
    with compressor.attached(model) as run:
        model.generate(input_ids=ids, **image, **kind, max_new_tokens=1)
    return run


@pytest.mark.parametrize("family", WITHOUT_CLS)
def test_an_ensemble_of_cls_rows_sums_what_patches_receive(family):
    compressor = with_fallbacks(vtc_cls(keep=5, start_layer=1), model_of(family))
    layers = [NEAREST.get(family, (0, 1, 2, 3))[layer] for layer in (1, 2, 3)]
    expected = sum(received(family, layer).mean(0) for layer in layers)
    run = seen(family, compressor)
    torch.testing.assert_close(run.scores[0], expected, atol=1e-6, rtol=0)
    assert run.kept[0].tolist() == expected.topk(5).indices.sort().values.tolist()
    assert "Fallback" in repr(compressor)  # and so in the record of a run


def test_layers_of_windows_are_answered_by_the_nearest_others():
    expected = received("Qwen2.5-VL", 3).mean(0)
    run = seen("Qwen2.5-VL", with_fallbacks(hiprune(keep=5, alpha=0.0, object_layer=2), model_of("Qwen2.5-VL")))
    torch.testing.assert_close(run.scores[0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", WITHOUT_CLS)
def test_a_cut_inside_the_language_model_is_told_the_same(family):
    early = ClsEnsemble(LayersFrom(2))
    cut = DecoderCompressor(Hybrid((early, PromptAttention(1)), (1.0, 0.0), normalise="none"), 5, layer=2)
    layers = [NEAREST.get(family, (0, 1, 2, 3))[layer] for layer in (2, 3)]
    expected = sum(received(family, layer).mean(0) for layer in layers)
    torch.testing.assert_close(
        seen(family, with_fallbacks(cut, model_of(family))).scores[0], expected, atol=1e-6, rtol=0, equal_nan=True
    )


@pytest.mark.parametrize("family", ["LLaVA-1.5", "LLaVA-NeXT", "InternVL"])
def test_towers_with_cls_need_none(family):
    for compressor in (vtc_cls(4, 1), vispruner(4), hiprune(4, object_layer=2), fastv(4, 1)):
        assert with_fallbacks(compressor, model_of(family)) is compressor


def test_what_needs_no_attention_of_the_tower_needs_none():
    assert with_fallbacks(fastv(4, 1), model_of("Qwen2.5-VL")) == fastv(4, 1)


def test_a_stand_in_is_a_value_that_plans_and_numbers_as_what_it_wraps():
    model = model_of("Qwen3-VL")
    one, other = with_fallbacks(vscan(8, 1, 3), model), with_fallbacks(vscan(8, 1, 3), model)
    assert isinstance(one, Fallback)
    assert (one, hash(one), repr(one)) == (other, hash(other), repr(other))
    assert one.plan(24, 6) == vscan(8, 1, 3).plan(24, 6)
    assert (one.cuts, one.repack) == (vscan(8, 1, 3).cuts, vscan(8, 1, 3).repack)


def test_what_nothing_can_stand_in_for_is_said_without_a_vain_hint():
    with pytest.raises(UnsupportedNeed, match=r"SiglipVisionModel cannot answer ClsQuery.*could be read$"):
        seen("LLaVA-OneVision", with_fallbacks(prumerge(4), model_of("LLaVA-OneVision")))
    with pytest.raises(LayerError, match=r"layer 9: this tower has 4 layers"):
        with_fallbacks(hiprune(4, deep_layer=9), model_of("Qwen2.5-VL"))


def test_cuts_come_after_what_is_added_behind_the_first_blocks():
    assert options_for(fastv, 4, 6, deepstack_levels=3) == {"layer": 3}
    assert options_for(pyramiddrop, 4, 6, deepstack_levels=3) == {"layers": (3, 4, 5)}
    assert options_for(sparsevlm, 4, 6, deepstack_levels=3) == {"after": (2, 3, 4)}
    assert options_for(visionzip, 4, 6, keeps_cls=False) == {"cls": False}
    assert options_for(visionzip, 4, 6) == {}


def test_frames_without_a_pooling_head_have_the_mean_of_their_features_and_received_attention():
    compressor = with_fallbacks(fastvid(keep=0.5), model_of("LLaVA-1.5"))
    assert isinstance(compressor, Fallback) and compressor.needs == (ReceivedRows(2), Features(projected=True))
    videos = drawn_videos(3)
    answers = {ReceivedRows(2): videos.answers[ReceivedRows(-1)], Features(True): videos.features}
    read = compressor.answered(fastvid(keep=0.5).needs, Trace.recorded(answers, videos.arrangement, 2))
    torch.testing.assert_close(read[FrameVectors()], videos.features.unflatten(1, (3, 30)).mean(2))
    assert read[PoolingRows()] is answers[ReceivedRows(2)]
    given = ArrayVideos(videos.features.unflatten(1, (3, 30)), videos.arrangement.views[0], answers)
    made, expected = (one.compress(images) for one, images in ((compressor, given), (fastvid(keep=0.5), videos)))
    assert torch.equal(made.decision.compression.origin, expected.decision.compression.origin)


def test_fastvid_reads_a_pooling_head_or_the_mean_query_where_there_is_one():
    """A stand-in for [CLS] beside it changes nothing about the head."""
    for model in (model_of("Qwen2.5-VL"), llava_onevision(head=True)):
        assert with_fallbacks(fastvid(keep=0.5), model) == fastvid(keep=0.5)
    both = Pipeline((fastvid(keep=0.5), DecoderCompressor(ClsEnsemble((1,)), 2, layer=2)))
    found = with_fallbacks(both, llava_onevision(head=True))
    assert found.needs == (PoolingRows(), FrameVectors(), ReceivedRows(1))
