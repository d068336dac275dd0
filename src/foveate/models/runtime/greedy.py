"""Greedy answers from the logits of prompts, and from drafts of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.models.backbone.adapter import Adapter
from foveate.models.runtime.decoder_passes import DecoderPasses


@dataclass(frozen=True, eq=False)
class Answers:
    """What the model says, and how likely it finds what it should say.

    Attributes:
        tokens: Greedy answers without the end token.
        log_probability: (prompt,) of the reference answers, NaN without them.
    """

    tokens: list[list[int]]
    log_probability: Tensor


def greedy(
    adapter: Adapter,
    blocks: DecoderPasses,
    logits: Tensor,
    begun: Sequence[list[int]],
    limit: int,
    note: Callable[[Tensor, Tensor], None] = lambda rows, ended: None,
) -> list[list[int]]:
    """Decodes on from the logits of the next token; `note` hears which rows just answered and which are at an end."""
    ends = torch.tensor(adapter.ends, device=logits.device)
    rows = torch.arange(len(logits), device=logits.device)
    answers = [list(tokens) for tokens in begun]
    while True:
        chosen = logits.argmax(-1)
        ended = torch.isin(chosen, ends)
        note(rows, ended)
        for row, token in zip(rows[~ended].tolist(), chosen[~ended].tolist(), strict=True):
            answers[row].append(token)
        open_ = ~ended & torch.tensor([len(answers[row]) < limit for row in rows.tolist()], device=rows.device)
        if not open_.any():
            return answers
        if not open_.all():
            blocks.select(open_.nonzero()[:, 0])
            rows, chosen = rows[open_], chosen[open_]
        embeds = adapter.inner.get_input_embeddings()(chosen[:, None])
        states = blocks.step(embeds, torch.ones_like(chosen[:, None], dtype=torch.bool))
        logits = adapter.decoder.logits(states[:, -1])


def undrafted(adapter: Adapter, blocks: DecoderPasses, states: Tensor, limit: int) -> Answers:
    """Greedy answers from the states of the prompts."""
    first = adapter.decoder.logits(states[:, -1])
    unknown = torch.full((len(first),), torch.nan, device=first.device)
    return Answers(greedy(adapter, blocks, first, [[] for _ in first], limit), unknown)


def verified(
    adapter: Adapter,
    blocks: DecoderPasses,
    logits: Float[Tensor, "row token word"],
    drafts: Int[Tensor, "row token"],
    real: Bool[Tensor, "row token"],
    limit: int,
) -> Answers:
    """Greedy answers after references, all but the last token of each, were run as drafts of them.

    What the model would have said itself is kept of a draft (Leviathan et al. 2023, arXiv 2211.17192, section 2.3, with
    greedy choice), the rest is taken back and said anew.

    Args:
        adapter: Of the model.
        blocks: After the drafts.
        logits: With which each token of the drafts was foretold.
        drafts: The references, left-padded.
        real: Which of their tokens are there.
        limit: Longest answer.
    """
    ends = torch.tensor(adapter.ends, device=drafts.device)
    agreed = ((logits.argmax(-1) == drafts) | ~real).cumprod(1).bool() & real
    agreed[:, -1] &= torch.isin(drafts[:, -1], ends)  # anything else has not been run
    said, length = agreed.sum(1), real.sum(1)
    answers = [
        [token for token in row[len(row) - int(n) :][: int(k)] if token not in adapter.ends][:limit]
        for row, n, k in zip(drafts.tolist(), length, said, strict=True)
    ]
    if (going := (said < length) & (said < limit)).any():
        rows = going.nonzero()[:, 0]
        if (run := drafts.shape[1] - 1) > 0:
            blocks.forget((real & ~agreed)[:, :run])
        blocks.select(rows)
        next_ = logits[rows, (drafts.shape[1] - length + said)[rows]]
        rest = greedy(adapter, blocks, next_, [answers[i] for i in rows.tolist()], limit)
        for row, tokens in zip(rows.tolist(), rest, strict=True):
            answers[row] = tokens
    return Answers(answers, log_probability(logits, drafts, real))


def log_probability(
    logits: Float[Tensor, "row token word"], tokens: Int[Tensor, "row token"], real: Bool[Tensor, "row token"]
) -> Float[Tensor, " row"]:
    """Of the real ones of these tokens, by the logits with which each was foretold."""
    return (logits.float().log_softmax(-1).gather(2, tokens[..., None])[..., 0] * real).sum(1)
