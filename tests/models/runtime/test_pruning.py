"""Cuts inside the language model: stock `generate` with hooks, the project's own engine, and a slow reference agree.

The reference knows nothing of either: one unpadded prompt at a time, no cache, every step a full pass over blocks put
together from transformers' own pieces, in which tokens that are gone stay in the sequence and are masked as keys from
their block on.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, StaticCache
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from foveate.compressors import DecoderCompressor, Pipeline, VisionCompressor
from foveate.compressors.base import compressed_by
from foveate.core.contracts import Scorer, Selector
from foveate.core.errors import FoveateError, LayerError, UnsupportedNeed
from foveate.core.needs import Role
from foveate.core.trace import Trace
from foveate.data.load import load_samples
from foveate.functional.ranking import listed
from foveate.methods import (
    dart,
    fastv,
    feather,
    pyramiddrop,
    random,
    sparsevlm,
    sparsevlm_plus,
    uniform,
    vscan,
    vtc_cls,
    vtw,
)
from foveate.models.loading.load import LoadedModel, load
from foveate.models.runtime.generation import answer_each
from foveate.models.runtime.packing import pack
from foveate.scorers import ClsAttention, ClsEnsemble, Hybrid, PromptAttention, Random, WideClsAttention
from foveate.selectors import Mass
from foveate.testing.tiny import save_tiny_llava
from tests.image_files import live_images
from tests.models.families.test_llava import inputs_of

NEW = 6


@dataclass(frozen=True)
class AboveMean(Selector):
    """As many as there are: a different number for every prompt."""

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        there = scores > -torch.inf
        mean = torch.where(there, scores, 0).sum(1, keepdim=True) / there.sum(1, keepdim=True)
        return listed(there & (scores > mean))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> LoadedModel:
    return load(save_tiny_llava(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def samples():
    return load_samples("scenes", "search", limit=33)


@pytest.fixture(scope="module")
def batch(loaded, samples):
    """Three prompts of different lengths, left-padded, about two images."""
    chosen = [samples[0], samples[11], samples[31]]
    inputs = inputs_of(loaded, [s.question for s in chosen], [[s.image] for s in chosen])
    assert not inputs["attention_mask"].all()
    return inputs


def reference(loaded, cuts, ids, pixels):
    """Kept patches of every cut, logits of every step and greedy tokens of one unpadded prompt.

    `cuts` are (block, read block, budget, repack) of last-token attention with top-k; a budget of 0 is `AboveMean`.
    """
    model, decoder = loaded.model, loaded.model.model.language_model
    features = model.model.get_image_features(pixels, return_dict=True).pooler_output
    embeds = decoder.embed_tokens(ids)
    visual = ids == loaded.adapter.image_token
    embeds[visual] = torch.cat(list(features))
    prompt, kept_sets, all_logits, new = len(ids), {}, [], []
    for _ in range(NEW):
        length = len(embeds)
        gone = torch.zeros(length, dtype=torch.bool)
        place = torch.arange(length)
        states = embeds[None]
        attention = {}
        for number, block in enumerate(decoder.layers):
            for cut, read, budget, repack in cuts:
                if cut != number:
                    continue
                if cut not in kept_sets:
                    row = attention[read] if read < cut else _last_row(decoder, block, states, place, gone, prompt)
                    row = row[:prompt].masked_fill(~(visual & ~gone[:prompt]), -1)
                    if budget:
                        best = row.argsort(descending=True, stable=True)[:budget]
                    else:
                        best = (row > row[row >= 0].mean()).nonzero()[:, 0]
                    kept_sets[cut] = set(best.tolist())
                for token in visual.nonzero()[:, 0].tolist():
                    gone[token] = gone[token] or token not in kept_sets[cut]
                if repack:
                    place = ((~gone).cumsum(0) - 1).clamp(min=0)
            attention[number] = _last_row(decoder, block, states, place, gone, prompt)
            mask = torch.full((length, length), torch.finfo(states.dtype).min).triu(1)
            mask[:, gone] = torch.finfo(states.dtype).min
            rotation = decoder.rotary_emb(states, position_ids=place[None])
            states = block(states, attention_mask=mask[None, None], position_embeddings=rotation)
        logits = model.lm_head(decoder.norm(states[0, -1]))
        logits[model.generation_config.eos_token_id] = -torch.inf  # as min_new_tokens does
        all_logits.append(logits)
        new.append(int(logits.argmax()))
        embeds = torch.cat([embeds, decoder.embed_tokens.weight[new[-1]][None]])
    start = int(visual.nonzero()[0])
    return [sorted(t - start for t in kept_sets[cut[0]]) for cut in cuts], torch.stack(all_logits), new


def _last_row(decoder, block, states, place, gone, prompt):
    """Head-mean attention of the last prompt token in a block, over all tokens."""
    normed = block.input_layernorm(states)
    shape = (1, states.shape[1], -1, block.self_attn.head_dim)
    query, key = (p(normed).view(shape).transpose(1, 2) for p in (block.self_attn.q_proj, block.self_attn.k_proj))
    query, key = apply_rotary_pos_emb(query, key, *decoder.rotary_emb(states, position_ids=place[None]))
    logits = (query[0, :, prompt - 1][:, None] @ key[0].transpose(1, 2))[:, 0] * block.self_attn.scaling
    logits[:, prompt:] = -torch.inf
    logits[:, gone] = -torch.inf
    return logits.softmax(-1).mean(0)


CUTS = {
    "one cut": (fastv(5, 2), [(2, 1, 5, False)]),
    "the last block": (fastv(3, 3), [(3, 2, 3, False)]),
    "everything kept": (fastv(144, 1), [(1, 0, 144, False)]),
    "repacked": (
        DecoderCompressor(PromptAttention(1), 9, 2, positions="repacked"),
        [(2, 1, 9, True)],
    ),
    "pyramid": (
        pyramiddrop(layers=(1, 2, 3), ratios=(0.5, 0.25, 0.05)),
        [(1, 1, 72, True), (2, 2, 36, True), (3, 3, 7, True)],
    ),
    "mixed positions": (
        Pipeline((fastv(30, 1), DecoderCompressor(PromptAttention(2), 4, 3, positions="repacked"))),
        [(1, 0, 30, False), (3, 2, 4, True)],
    ),
    "ragged": (
        DecoderCompressor(PromptAttention(1), None, 2, AboveMean()),
        [(2, 1, 0, False)],
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("case", CUTS)
def test_a_padded_batch_in_stock_generate_equals_masking_one_by_one(loaded, batch, case):
    compressor, cuts = CUTS[case]
    length = batch["input_ids"].shape[1]
    with compressor.attached(loaded.model) as run:
        output = loaded.model.generate(
            **batch,
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    for row in range(3):
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        kept, logits, tokens = reference(loaded, cuts, ids, batch["pixel_values"][row : row + 1])
        assert [d.compression.kept[row].tolist() for d in run.decisions[1:]] == kept
        assert run.kept[row].tolist() == kept[-1]
        assert run.tokens.left[row] == len(kept[-1])
        assert output.sequences[row, length:].tolist() == tokens
        ours = torch.stack([step[row] for step in output.logits])
        finite = logits.isfinite()
        torch.testing.assert_close(ours[finite], logits[finite], atol=2e-4, rtol=0)


STAGED = {
    **{name: compressor for name, (compressor, _) in CUTS.items()},
    "recycling": sparsevlm(50, after=(0, 1, 2)),
    "debiased": sparsevlm_plus(64, after=(0, 1, 2), strongest=2),
    "pivots": dart(20, 2),
    "without positions": feather(0.2, layers=(1, 2)),
    "withdrawn": vtw(layer=2),
    "vision, then prompt": Pipeline((vtc_cls(40, 1), fastv(9, 2))),
    "ragged vision, then prompt": Pipeline(
        (VisionCompressor(ClsAttention(-2), None, Mass(0.5), positions="original"), fastv(9, 2))
    ),
    "merged vision, then prompt": vscan(24, layer=2, local_layer=1),
    "hybrid": DecoderCompressor(Hybrid((ClsEnsemble((0, 2)), PromptAttention(1, "mean")), (0.3, 0.7)), 12, 2),
    "hybrid behind vision": Pipeline(
        (
            random(60),
            DecoderCompressor(Hybrid((ClsAttention(1), PromptAttention(0, "raters"))), 20, 1),
            DecoderCompressor(Hybrid((ClsAttention(3), PromptAttention(2, "all")), normalise="minmax"), 8, 3),
        )
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("case", STAGED)
def test_the_own_engine_and_hooks_in_generate_agree_and_a_batch_gives_what_single_prompts_give(loaded, batch, case):
    compressor = STAGED[case]
    length, ends = batch["input_ids"].shape[1], loaded.adapter.ends
    options = {"max_new_tokens": NEW, "do_sample": False}
    with compressor.attached(loaded.model) as run:
        together = loaded.model.generate(**batch, **options)[:, length:]
        kept, tokens = [k.tolist() for k in run.kept], run.tokens.per_block
        prompts = [ids[m.bool()].tolist() for ids, m in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
        for row, prompt in enumerate(prompts):
            ids = torch.tensor([prompt])
            alone = loaded.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=batch["pixel_values"][row : row + 1],
                **options,
            )[0, ids.shape[1] :]
            assert run.kept[0].tolist() == kept[row]
            assert torch.equal(run.tokens.per_block[0], tokens[row])
            assert _until_end(alone, ends) == _until_end(together[row], ends)
    compressed = compressed_by(compressor, live_images(loaded.adapter, batch["pixel_values"]))
    answers, pruning = answer_each(loaded.adapter, prompts, compressed, compressor.repack, compressor.cuts, NEW)
    assert answers.tokens == [_until_end(row, ends) for row in together]
    assert [k.tolist() for k in pruning.decisions[-1].compression.kept] == kept
    assert torch.equal(torch.stack(pruning.per_block, 1).float(), tokens)


def _until_end(tokens, ends):
    tokens = tokens.tolist()
    return tokens[: min((tokens.index(end) for end in ends if end in tokens), default=len(tokens))]


@torch.no_grad()
def test_several_images_per_prompt_are_chosen_from_together(loaded, samples):
    images = [[samples[0].image, samples[11].image], [samples[11].image, samples[22].image]]
    inputs = inputs_of(loaded, [samples[0].question, samples[31].question], images)
    with fastv(40, 2).attached(loaded.model) as run:
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
        assert run.tokens.per_block.shape == (3, 4)
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


def test_nothing_stays_behind_after_an_error_in_the_middle(loaded, batch):
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
    monkeypatch.setattr(config, "layer_types", ["full_attention", "sliding_attention"] * 2, raising=False)
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
    with pytest.raises(UnsupportedNeed, match="known only inside the language model: use a DecoderCompressor"):
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
    """Read as it ran (1) or ahead (2): with positions, without, and from the whole question."""
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
    """One word is as alike as the average of all; and behind the image there may be nothing."""
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
    assert run.tokens.per_block.tolist() == [[40, 40, 10, 10]] * 3
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
            return torch.full(trace.places.shape, torch.nan)

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
    """Before anything moves, so that the device's name is enough to see it."""
    monkeypatch.setattr(type(loaded.model), "device", property(lambda model: torch.device("cuda")))
    for options in (
        {"cache_implementation": "static"},
        {"past_key_values": StaticCache(loaded.model.config.text_config, 8)},
    ):
        with fastv(5, 2).attached(loaded.model), pytest.raises(FoveateError, match="a static cache on a GPU"):
            loaded.model.generate(**batch, max_new_tokens=2, **options)
