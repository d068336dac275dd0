"""Greedy decoding, with and without drafts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, takewhile

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.transfer import on_device, on_host, rows_of
from foveate.models.backbone.adapter import Adapter
from foveate.models.runtime.decoder_passes import DecoderPasses

_LEAST_COMPLETE = 0.25  # share of a batch from which leaving prompts out saves more than copying the others costs


@dataclass(frozen=True, eq=False)
class Answers:
    """The greedy answers to a batch of prompts, and the log-probabilities of the reference answers.

    Attributes:
        tokens: Greedy answers without the end token.
        log_probability: (prompt,) log-probability of the reference answers; NaN without references.
    """

    tokens: list[list[int]]
    log_probability: Tensor


def greedy(
    adapter: Adapter,
    blocks: DecoderPasses,
    logits: Tensor,
    prefixes: Sequence[list[int]],
    limit: int,
    on_step: Callable[[Sequence[int], Sequence[bool]], None] = lambda rows, ended: None,
) -> list[list[int]]:
    """Decodes greedily from the logits of the next token until every answer ends or reaches the limit.

    Prompts with complete answers stay in the batch until they are a quarter of it, because to remove them the keys and
    values of all others are copied. No prompt gets positions behind the limit.

    Args:
        adapter: The model's adapter.
        blocks: The passes after the prompts.
        logits: Logits of the next token of each prompt.
        prefixes: The tokens that each answer has already.
        limit: Longest answer.
        on_step: Receives at each step the rows in the batch, and whether the answer of each ends with this token or
            was complete before.
    """
    rows, answers = list(range(len(logits))), [list(tokens) for tokens in prefixes]
    complete = [False] * len(rows)
    for step in count(1):
        chosen = logits.argmax(-1)
        tokens = chosen.tolist()  # the only wait for the device in a step
        ended = [before or token in adapter.ends for before, token in zip(complete, tokens, strict=True)]
        on_step(rows, ended)
        for row, token, last in zip(rows, tokens, ended, strict=True):
            answers[row] += [token] * (not last)
        complete = [last or len(answers[row]) >= limit for row, last in zip(rows, ended, strict=True)]
        if all(complete):
            break
        beyond = any(done and len(prefixes[row]) + step >= limit for row, done in zip(rows, complete, strict=True))
        if beyond or sum(complete) >= _LEAST_COMPLETE * len(rows):
            left = [place for place, done in enumerate(complete) if not done]
            rows, complete = [rows[place] for place in left], [False] * len(left)
            chosen = rows_of(chosen, left)
            blocks.select(left)
        embeds = adapter.inner.get_input_embeddings()(chosen[:, None])
        states = blocks.step(embeds, torch.ones_like(chosen[:, None], dtype=torch.bool), padded=False)
        logits = adapter.decoder.logits(states[:, -1])
    return answers


def undrafted(adapter: Adapter, blocks: DecoderPasses, states: Tensor, limit: int) -> Answers:
    """Returns greedy answers from the states of the prompts, without drafts."""
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
    """Returns greedy answers after a pass over the references, without their last tokens, as drafts of the answers.

    The tokens of a draft that the model would have generated itself are kept (Leviathan et al. 2023, arXiv 2211.17192,
    section 2.3, with greedy choice); the others are removed and decoded again.

    Args:
        adapter: The model's adapter.
        blocks: The passes after the drafts.
        logits: Logits of each token of the drafts.
        drafts: The references, left-padded.
        real: Marks the tokens that are not padding.
        limit: Longest answer.
    """
    ends = on_device(torch.tensor(adapter.ends, dtype=drafts.dtype), drafts.device)
    agreed = ((logits.argmax(-1) == drafts) | ~real).cumprod(1).bool() & real
    agreed[:, -1] &= torch.isin(drafts[:, -1], ends)  # a last token that ends no answer has not been run
    counts = torch.stack([real.sum(1), agreed.sum(1)], 1)
    tokens, counted = (values.tolist() for values in on_host(drafts, counts))
    answers: list[list[int]] = []
    going: list[int] = []
    for row, (draft, (length, accepted)) in enumerate(zip(tokens, counted, strict=True)):
        agreeing = draft[len(draft) - length :][:accepted]
        answer = list(takewhile(lambda token: token not in adapter.ends, agreeing))  # a draft may go on behind its end
        answers.append(answer[:limit])
        if len(answer) == len(agreeing) and accepted < min(length, limit):
            going.append(row)
    if going:
        if (run := drafts.shape[1] - 1) > 0:
            blocks.forget((real & ~agreed)[:, :run])
        if len(going) < len(counted):
            blocks.select(going)
        rows = on_device(torch.tensor(going), logits.device)
        next_ = logits[rows, (drafts.shape[1] - counts[:, 0] + counts[:, 1])[rows]]
        rest = greedy(adapter, blocks, next_, [answers[row] for row in going], limit)
        for row, found in zip(going, rest, strict=True):
            answers[row] = found
    return Answers(answers, log_probability(logits, drafts, real))


def log_probability(
    logits: Float[Tensor, "row token word"], tokens: Int[Tensor, "row token"], real: Bool[Tensor, "row token"]
) -> Float[Tensor, " row"]:
    """Returns the log-probability of the real tokens of each row, given the logits of each token."""
    return (logits.float().log_softmax(-1).gather(2, tokens[..., None])[..., 0] * real).sum(1)
