"""Cuts inside the language model in single modes of `generate` and `forward`, and cuts that are refused."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GenerationConfig, StaticCache

from foveate.compressors import DecoderCompressor, Pipeline, VisionCompressor
from foveate.core.contracts import Scorer
from foveate.core.errors import FoveateError, LayerError, UnsupportedNeed
from foveate.core.needs import Role
from foveate.core.trace import Trace
from foveate.methods import (
    fastv,
    feather,
    pyramiddrop,
    sparsevlm,
    sparsevlm_plus,
    uniform,
    vscan,
    vtc_cls,
)
from foveate.models.runtime.packing import pack
from foveate.scorers import Hybrid, PromptAttention, Random, WideClsAttention
from tests.image_files import live_images
from tests.models.families.test_llava import inputs_of
from tests.models.runtime.test_pruning import batch_of, reference

NEW = 6


@pytest.fixture(scope="module")
def batch(loaded, samples):
    return batch_of(loaded, samples)


@torch.no_grad()
def test_several_images_per_prompt_are_chosen_from_together(loaded, samples):
    images = [[samples[0].image, samples[11].image], [samples[11].image, samples[22].image]]
    inputs = inputs_of(loaded, [samples[0].question, samples[31].question], images)
    with fastv(20, 2).attached(loaded.model) as run:  # the budget of an image
        output = loaded.model.generate(**inputs, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
    assert len(run.kept) == 4
    assert run.scores.shape == (4, 144)
    assert [len(run.kept[0]) + len(run.kept[1]), len(run.kept[2]) + len(run.kept[3])] == [40, 40]
    for row in range(2):
        ids = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
        visual = (ids == loaded.adapter.image_token).nonzero()[:, 0]
        kept, _, tokens = reference(loaded, [(2, 1, 40, False)], ids, inputs["pixel_values"][2 * row : 2 * row + 2])
        mine = [*run.kept[2 * row].tolist(), *(run.kept[2 * row + 1] + 144).tolist()]
        assert sorted(int(visual[i] - visual[0]) for i in mine) == kept[0]
        assert output[row, inputs["input_ids"].shape[1] :].tolist() == tokens


@torch.no_grad()
def test_beams_share_the_cut_of_their_prompt(loaded, batch):
    options = {"max_new_tokens": 4, "do_sample": False}
    with pyramiddrop(layers=(1, 2, 3), ratios=(0.5, 0.25, 0.1)).attached(loaded.model) as run:
        greedy = loaded.model.generate(**batch, **options, min_new_tokens=4)
        kept = [k.tolist() for k in run.kept]
        beams = loaded.model.generate(**batch, **options, num_beams=3, num_return_sequences=2)
        assert [k.tolist() for k in run.kept] == kept
        assert run.tokens.per_block.shape == (3, 8)
        one = loaded.model.generate(**batch, **options, min_new_tokens=4, num_beams=1)
    assert beams.shape[0] == 6
    assert torch.equal(one, greedy)


@torch.no_grad()
def test_forward_cuts_too_and_the_model_is_as_it_was_afterwards(loaded, batch):
    before = loaded.model(**batch).logits
    with fastv(5, 2).attached(loaded.model):
        cut = loaded.model(**batch).logits
    assert cut.shape[1] == before.shape[1] - 139
    assert torch.equal(loaded.model(**batch).logits, before)
    assert not any(block._forward_pre_hooks for block in loaded.model.model.language_model.layers)
    assert loaded.model.model.language_model.config._attn_implementation == "sdpa"


def test_an_error_inside_the_context_restores_the_model(loaded, batch):
    with fastv(5, 2).attached(loaded.model), pytest.raises(ValueError, match="not used by the model"):
        loaded.model.generate(**batch, max_new_tokens=2, no_such_option=1)
    assert not any(block._forward_pre_hooks for block in loaded.model.model.language_model.layers)


@torch.no_grad()
def test_given_encoder_outputs_are_cut_like_pixels(loaded, batch):
    options = {"max_new_tokens": NEW, "do_sample": False}
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    for compressor in (fastv(7, 2), sparsevlm(64, after=(0, 1, 2))):
        with compressor.attached(loaded.model) as run:
            expected = loaded.model.generate(**batch, **options)
            kept = [k.tolist() for k in run.kept]
            given = {"image": loaded.model.get_image_features(batch["pixel_values"], return_dict=True)}
            assert torch.equal(loaded.model.generate(**text, **options, mm_encoder_outputs=given), expected)
            assert [k.tolist() for k in run.kept] == kept
    with (
        vtc_cls(16, 1).attached(loaded.model),
        pytest.raises(UnsupportedNeed, match=r"mm_encoder_outputs.*pixel_values"),
    ):
        loaded.model.generate(**text, **options, mm_encoder_outputs=given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefill_chunk_size": 8}, "chunked prefill"),
        ({"generation_config": GenerationConfig(prefill_chunk_size=8)}, "chunked prefill"),
        ({"prompt_lookup_num_tokens": 3}, "assisted decoding"),
        ({"use_cache": False}, "use_cache=False"),
        ({"cache_implementation": "sliding_window"}, "sliding-window cache"),
    ],
    ids=str,
)
def test_decoding_that_ragged_caches_cannot_serve_is_refused(loaded, batch, options, message):
    with fastv(5, 2).attached(loaded.model), pytest.raises(FoveateError, match=f"{message}.*switch it off"):
        loaded.model.generate(**batch, max_new_tokens=2, **options)


def test_an_assistant_a_loss_and_a_filled_cache_are_refused(loaded, batch):
    with fastv(5, 2).attached(loaded.model):
        with pytest.raises(FoveateError, match="assisted decoding"):
            loaded.model.generate(**batch, max_new_tokens=2, assistant_model=loaded.model)
        with pytest.raises(FoveateError, match="a loss"):
            loaded.model(**batch, labels=batch["input_ids"])
    filled = loaded.model(**batch, use_cache=True).past_key_values
    with fastv(5, 2).attached(loaded.model):
        with pytest.raises(FoveateError, match="past_key_values that already hold tokens"):
            loaded.model.generate(**batch, max_new_tokens=2, past_key_values=filled)
        with pytest.raises(FoveateError, match="cannot continue from past_key_values in forward"):
            loaded.model(input_ids=batch["input_ids"][:, -1:], past_key_values=filled)


def test_a_sliding_window_language_model_is_refused(loaded, batch, monkeypatch):
    config = loaded.model.model.language_model.config
    monkeypatch.setattr(config, "layer_types", ["full_attention", "sliding_attention"] * 4, raising=False)
    monkeypatch.setattr(config, "sliding_window", 8, raising=False)
    with pytest.raises(FoveateError, match="sliding_window of 8 tokens"), fastv(5, 2).attached(loaded.model):
        pass


@torch.no_grad()
def test_a_static_cache_works_on_the_cpu(loaded, batch):
    length = batch["input_ids"].shape[1]
    options = {"max_new_tokens": NEW, "do_sample": False}
    with fastv(5, 2).attached(loaded.model):
        expected = loaded.model.generate(**batch, **options)
        cache = StaticCache(config=loaded.model.config.text_config, max_cache_len=length + NEW)
        assert torch.equal(loaded.model.generate(**batch, **options, past_key_values=cache), expected)


def test_scorers_may_not_read_blocks_that_have_not_run(loaded):
    later = DecoderCompressor(PromptAttention(3), 5, 2)
    with pytest.raises(LayerError, match="block 3, which has not run"), later.attached(loaded.model):
        pass


def test_prompt_side_needs_on_the_vision_side_are_refused():
    with pytest.raises(UnsupportedNeed, match="answered inside the language model only: use a DecoderCompressor"):
        VisionCompressor(PromptAttention(1), 5)
    with pytest.raises(FoveateError, match="expected one compressor of any kind, then those that cut"):
        Pipeline((fastv(5, 2), vtc_cls(16, 1)))


@torch.no_grad()
def test_roles_tell_text_before_and_behind_the_image(loaded, batch):
    compressed = uniform(9).compress(live_images(loaded.adapter, batch["pixel_values"]))
    _, layout = pack(loaded.adapter, dict(batch), compressed, repack=True)
    for row, ids, mask in zip(layout.role, batch["input_ids"], batch["attention_mask"], strict=True):
        prompt = ids[mask.bool()]
        place = (prompt == loaded.adapter.image_token).nonzero()[:, 0]
        before, after = int(place[0]), len(prompt) - int(place[-1]) - 1
        expected = [*[Role.BEFORE] * before, *[Role.VISUAL] * 9, *[Role.QUESTION] * after]
        assert row.tolist() == [Role.PADDING] * (len(row) - len(expected)) + expected


@torch.no_grad()
@pytest.mark.parametrize("layer", [1, 2])
def test_several_readings_of_one_block_do_not_disturb_each_other(loaded, batch, layer):
    """Block 1 is read as it ran and block 2 ahead: with positions, without, and from the whole question."""
    parts = [PromptAttention(layer, query, rotary) for query in ("last", "mean") for rotary in (True, False)]
    found = []
    for scorer in (*parts, Hybrid(tuple(parts), (1.0, 10.0, 100.0, 1000.0), "none")):
        with DecoderCompressor(scorer, 9, 2).attached(loaded.model) as run:
            loaded.model.generate(**batch, max_new_tokens=1)
        found.append(run.scores)
    expected = sum(weight * scores for weight, scores in zip((1.0, 10.0, 100.0, 1000.0), found, strict=False))
    torch.testing.assert_close(found[-1], expected)
    assert not torch.allclose(found[0], found[1])


@torch.no_grad()
@pytest.mark.parametrize("compressor", [sparsevlm(64, after=(0, 1, 2)), sparsevlm_plus(64, after=(0, 1, 2))], ids=repr)
def test_a_question_without_raters_rates_as_a_whole(loaded, batch, compressor):
    """A single word always has average similarity; and there may be no text after the image."""
    image = batch["pixel_values"][:1]
    for after in ([5], []):
        ids = torch.tensor([[1, 7, *[loaded.adapter.image_token] * 144, *after]])
        with compressor.attached(loaded.model) as run:
            loaded.model.generate(
                input_ids=ids, pixel_values=image, attention_mask=torch.ones_like(ids), max_new_tokens=2
            )
        assert run.decisions[1].scores.isfinite().all()
        assert run.kept[0].tolist() != list(range(len(run.kept[0])))


@torch.no_grad()
def test_nested_pipelines_are_flat(loaded, batch):
    first, second, third = vtc_cls(40, 1), fastv(20, 1), fastv(9, 2)
    assert Pipeline((Pipeline((first, second)), third)) == Pipeline((first, second, third))
    with pytest.raises(FoveateError, match="expected one compressor of any kind, then those that cut"):
        Pipeline((vtc_cls(40, 1), vscan(24)))


@torch.no_grad()
def test_controls_may_cut_behind_other_compressors(loaded, batch):
    inside = DecoderCompressor(Hybrid((Random(3), PromptAttention(1))), 10, 2)
    with Pipeline((vtc_cls(40, 1), inside)).attached(loaded.model) as run:
        loaded.model.generate(**batch, max_new_tokens=1)
    assert run.tokens.per_block.tolist() == [[40, 40] + [10] * 6] * 3
    with (
        DecoderCompressor(WideClsAttention(), 10, 2).attached(loaded.model),
        pytest.raises(UnsupportedNeed, match=r"Keys\(layer=-1\): keys of the tower are not carried"),
    ):
        loaded.model.generate(**batch, max_new_tokens=1)


@torch.no_grad()
def test_threads_take_turns_at_cutting(loaded, batch):
    options = {"max_new_tokens": 3, "do_sample": False}
    with fastv(9, 2).attached(loaded.model), ThreadPoolExecutor(3) as pool:
        expected = loaded.model.generate(**batch, **options)
        calls = [pool.submit(loaded.model.generate, **batch, **options) for _ in range(9)]
        assert all(torch.equal(call.result(), expected) for call in calls)


def test_scores_that_are_not_numbers_are_refused(loaded, batch):
    @dataclass(frozen=True)
    class Broken(Scorer):
        def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
            return torch.full(trace.origins.shape, torch.nan)

    for compressor in (VisionCompressor(Broken(), 9), DecoderCompressor(Broken(), 9, 1)):
        with (
            compressor.attached(loaded.model),
            pytest.raises(FoveateError, match=r"Broken.* gave 432 of 432 scores as NaN"),
        ):
            loaded.model.generate(**batch, max_new_tokens=1)


@torch.no_grad()
def test_feather_squares_the_share_it_was_given(loaded, batch):
    with feather(0.3, layers=(1, 2)).attached(loaded.model) as run:
        loaded.model.generate(**batch, max_new_tokens=1)
    first, second = (decision.compression.count.tolist() for decision in run.decisions[1:])
    assert second == [int(count * 0.3**2 + 1e-9) for count in first]
    grid = {row * 12 + column for row in range(0, 12, 3) for column in range(0, 12, 3)}
    for scores, kept in zip(run.decisions[1].scores, run.decisions[1].compression.kept, strict=True):
        assert set(kept.tolist()) == grid | set(scores.argsort(descending=True)[:43].tolist())


def test_a_static_cache_on_a_gpu_is_refused(loaded, batch, monkeypatch):
    """The error comes before anything runs, so that the name of the device suffices."""
    monkeypatch.setattr(type(loaded.model), "device", property(lambda model: torch.device("cuda")))
    for options in (
        {"cache_implementation": "static"},
        {"past_key_values": StaticCache(loaded.model.config.text_config, 8)},
    ):
        with fastv(5, 2).attached(loaded.model), pytest.raises(FoveateError, match="a static cache on a GPU"):
            loaded.model.generate(**batch, max_new_tokens=2, **options)
