"""Cuts inside the language model: stock `generate` with hooks, evaluations, and a slow reference agree.

The reference shares no code with them: it runs one unpadded prompt at a time without a cache, each step as a full pass
over stock blocks, in which dropped tokens stay in the sequence and are masked as keys from their block on.
"""

from dataclasses import dataclass

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from foveate.compressors import DecoderCompressor, Pipeline, VisionCompressor
from foveate.compressors.base import compressed_by
from foveate.core.contracts import Selector
from foveate.core.trace import Trace
from foveate.functional.ranking import listed
from foveate.methods import (
    dart,
    fastv,
    feather,
    pyramiddrop,
    random,
    sparsevlm,
    sparsevlm_plus,
    vscan,
    vtc_cls,
    vtw,
)
from foveate.models.runtime.generation import Decoding, answer_each
from foveate.scorers import ClsAttention, ClsEnsemble, Hybrid, PromptAttention
from foveate.selectors import Mass
from tests.image_files import live_images
from tests.models.families.test_llava import inputs_of

NEW = 6


@dataclass(frozen=True)
class AboveMean(Selector):
    """A selector of all patches above the mean, whose number differs between prompts."""

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        there = scores > -torch.inf
        mean = torch.where(there, scores, 0).sum(1, keepdim=True) / there.sum(1, keepdim=True)
        return listed(there & (scores > mean))


@pytest.fixture(scope="module")
def batch(loaded, samples):
    return batch_of(loaded, samples)


def batch_of(loaded, samples):
    """Returns three prompts of different lengths, left-padded, about three images."""
    chosen = [samples[0], samples[11], samples[31]]
    inputs = inputs_of(loaded, [s.question for s in chosen], [[s.image] for s in chosen])
    assert not inputs["attention_mask"].all()
    return inputs


def reference(loaded, cuts, ids, pixels):
    """Returns kept patches of every cut, logits of every step and greedy tokens of one unpadded prompt.

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
                    kept_sets[cut] = _best(row[:prompt].masked_fill(~(visual & ~gone[:prompt]), -1), budget)
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


def _best(row, budget):
    """Returns the `budget` highest entries of a row, or with budget 0 those above the mean of all non-negative ones."""
    if budget:
        return set(row.argsort(descending=True, stable=True)[:budget].tolist())
    return set((row > row[row >= 0].mean()).nonzero()[:, 0].tolist())


def _last_row(decoder, block, states, place, gone, prompt):
    """Returns the head-mean attention of the last prompt token in a block, over all tokens."""
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
    answers, pruning = answer_each(
        loaded.adapter, prompts, compressed, compressor.repack, compressor.cuts, Decoding(NEW)
    )
    assert answers.tokens == [_until_end(row, ends) for row in together]
    assert [k.tolist() for k in pruning.decisions[-1].compression.kept] == kept
    assert torch.equal(torch.stack(pruning.per_block, 1).float(), tokens)


def _until_end(tokens, ends):
    tokens = tokens.tolist()
    return tokens[: min((tokens.index(end) for end in ends if end in tokens), default=len(tokens))]
