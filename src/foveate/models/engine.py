"""Greedy answers to many questions about few pictures, with as much shared as the method allows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from foveate.core.contracts import Cut
from foveate.core.needs import ResponseRows, Role, resolve_layer
from foveate.core.types import Compressed
from foveate.functional.attention import attention_rows
from foveate.functional.sequence import positions
from foveate.models.adapter import Adapter
from foveate.models.cutting import Cutting, cuts_of
from foveate.models.decoder import Decoder
from foveate.models.packing import Layout, pack


@dataclass(frozen=True, eq=False)
class Conversation:
    """A picture and the questions about it, as token ids.

    Attributes:
        prefix: Everything up to and including the last image token; the same for all questions.
        suffixes: The rest of each prompt.
    """

    prefix: Sequence[int]
    suffixes: Sequence[Sequence[int]]

    @classmethod
    def from_prompts(cls, prompts: Sequence[Sequence[int]], image_token: int) -> "Conversation":
        """Splits full prompts after the picture.

        Raises:
            ValueError: The prompts differ before the end of the picture, so that nothing can be shared.
        """
        cut = len(prompts[0]) - list(reversed(prompts[0])).index(image_token)
        if any(list(prompt[:cut]) != list(prompts[0][:cut]) for prompt in prompts):
            raise ValueError("prompts about one picture must be equal up to the end of the picture")
        return cls(prompts[0][:cut], [prompt[cut:] for prompt in prompts])


@dataclass(frozen=True, eq=False)
class Answers:
    """What the model says, and how likely it finds what it should say.

    Attributes:
        tokens: Greedy answers without the end token.
        log_probability: (prompt,) of the reference answers, NaN without them.
    """

    tokens: list[list[int]]
    log_probability: Tensor


class Blocks:
    """The project's own loop over a language model's blocks: a prompt with cuts, then whatever follows it.

    Args:
        decoder: The language model.
        layout: What the prompt's tokens are.
        stages: Cuts inside the language model.
        compressed: What the vision side made of the images, with what it carries for the stages.
    """

    def __init__(self, decoder: Decoder, layout: Layout, stages: Sequence[Cut], compressed: Compressed) -> None:
        self.decoder, self.layout = decoder, layout
        self.cutting = cuts_of(decoder, layout, stages, compressed)
        self.cache = DynamicCache(config=decoder.config)
        self.following = layout.following  # position of the next token, were nothing cut

    def prompt(self, states: Tensor) -> Tensor:
        """Runs the prompt's embeddings; returns the last block's states."""
        position, mask, rotation = self.layout.position, None, None
        with self.cutting.listening():
            for number, block in enumerate(self.decoder.blocks):
                states = self.cutting.enter(number, states)
                if number == self.cutting.segment(number).start:  # a new sequence from here on
                    position = self.cutting.tokens.position
                    mask = self.decoder.mask(states, self.cutting.tokens.real, self.cache, number)
                    rotation = self.decoder.rotation(states, position)
                states = self._run(block, states, mask, position[0], rotation)
                if number < len(self.layout.deep):
                    seen = self.layout.role == Role.VISUAL
                    states = states.masked_scatter(
                        seen[..., None], states[seen] + self.layout.deep[number].to(states.dtype)
                    )
        return states

    def step(self, states: Tensor, real: Tensor) -> Tensor:
        """Runs the embeddings of left-padded tokens that follow; `real` marks those that are there."""
        self.cutting.advance(real)
        base = position = self.following[:, None] + positions(real)
        mask = rotation = None
        for number, block in enumerate(self.decoder.blocks):
            segment = self.cutting.segment(number)
            if number == segment.start:
                position = base - segment.shift[:, None]
                mask = self.decoder.mask(states, segment.real, self.cache, number)
                rotation = self.decoder.rotation(states, position.expand(len(self.layout.position), -1, -1))
            states = self._run(block, states, mask, position, rotation)
        self.following = self.following + real.sum(1)
        return states

    def forget(self, tokens: Tensor) -> None:
        """Takes back some of the tokens of the last step: (batch, token) bool, left-padded as they were given."""
        self.cutting.forget(tokens)
        self.following = self.following - tokens.sum(1)

    def select(self, rows: Tensor) -> None:
        """Goes on with these prompts, which may be repeated."""
        self.cache.batch_select_indices(rows)
        self.cutting.select(rows)
        self.following = self.following[rows]

    def _run(self, block: Any, states: Tensor, mask: Any, position: Tensor, rotation: Any) -> Tensor:  # noqa: ANN401
        return block(
            states,
            attention_mask=mask,
            position_ids=position,
            past_key_values=self.cache,
            use_cache=True,
            position_embeddings=rotation,
        )


@torch.inference_mode()
def answer(
    adapter: Adapter,
    conversations: Sequence[Conversation],
    compressed: Compressed,
    repack: bool,
    max_new_tokens: int,
    references: Sequence[Sequence[int]] = (),
) -> Answers:
    """The answer to every question, conversation by conversation.

    Keys and values of what precedes the questions are computed once per picture.

    Args:
        adapter: Of the model.
        conversations: One per picture.
        compressed: One row per picture.
        repack: See `pack`.
        max_new_tokens: Longest answer.
        references: For every question the tokens that it should be answered with, the end token among them.
    """
    blocks, states = _conversed(adapter, conversations, compressed, repack)
    return _answered(adapter, blocks, states, max_new_tokens, references)


@torch.inference_mode()
def likelihood(
    adapter: Adapter,
    conversations: Sequence[Conversation],
    compressed: Compressed,
    repack: bool,
    references: Sequence[Sequence[int]],
) -> Float[Tensor, " question"]:
    """The log-probability of a given answer to every question, conversation by conversation; nothing is decoded.

    Args:
        adapter: Of the model.
        conversations: One per picture.
        compressed: One row per picture.
        repack: See `pack`.
        references: As in `answer`.
    """
    given = iter(references)
    spoken = [Conversation(c.prefix, [[*s, *next(given)[:-1]] for s in c.suffixes]) for c in conversations]
    _, states = _conversed(adapter, spoken, compressed, repack)
    tokens, real = left_padded(references, adapter.pad_token, states.device)
    # a token is foretold by the one before it, and the last one foretells nothing that is asked for
    return _log_probability(adapter.decoder.logits(states[:, -tokens.shape[1] :]), tokens, real)


@torch.inference_mode()
def answer_each(
    adapter: Adapter,
    prompts: Sequence[Sequence[int]],
    compressed: Compressed,
    repack: bool,
    stages: Sequence[Cut],
    max_new_tokens: int,
    references: Sequence[Sequence[int]] = (),
) -> tuple[Answers, Cutting]:
    """The answer to every prompt when stages inside the language model cut it, and what they cut.

    Args:
        adapter: Of the model.
        prompts: Full prompts of one image each.
        compressed: One row per prompt.
        repack: Of the vision side; see `pack`.
        stages: See `Cutting`.
        max_new_tokens: Longest answer.
        references: As in `answer`.
    """
    blocks, states = _prompted(adapter, prompts, compressed, repack, stages)
    return _answered(adapter, blocks, states, max_new_tokens, references), blocks.cutting


@torch.inference_mode()
def response_rows(
    adapter: Adapter, prompts: Sequence[Sequence[int]], full: Compressed, need: ResponseRows, max_new_tokens: int = 32
) -> Tensor:
    """(prompt, layer, head, patch): see `ResponseRows`.

    Args:
        adapter: Of the model.
        prompts: Full prompts of one image each.
        full: Uncompressed, one row per prompt.
        need: The blocks.
        max_new_tokens: Longest answer.
    """
    depth = adapter.decoder.depth
    wanted = [resolve_layer(layer, depth, "language model") for layer in need.layers or range(depth)]
    latest: dict[int, tuple[Tensor, Tensor, float]] = {}

    def listen(block: int, query: Tensor, key: Tensor, scaling: float) -> None:
        if block in wanted:
            latest[block] = query[:, :, -1:], key, scaling

    with adapter.decoder.tapped(listen):
        blocks, states = _prompted(adapter, prompts, full, False, ())
        visual = (blocks.layout.role == Role.VISUAL).nonzero()[:, 1].reshape(len(prompts), -1)
        sums: list[Tensor] = [torch.zeros(())] * len(prompts)
        counts = [0] * len(prompts)

        def note(rows: Tensor, ended: Tensor) -> None:
            real = blocks.cutting.segments[0].real[:, None, None]
            seen = torch.stack([attention_rows(*latest[block], real)[:, :, 0] for block in wanted], 1)
            for i, (row, last) in enumerate(zip(rows.tolist(), ended.tolist(), strict=True)):
                if counts[row] < producing_rows(counts[row] + (not last)):
                    sums[row] = sums[row] + seen[i][..., visual[row]]
                    counts[row] += 1

        _greedy(adapter, blocks, adapter.decoder.logits(states[:, -1]), [[] for _ in prompts], max_new_tokens, note)
    return torch.stack([total / count for total, count in zip(sums, counts, strict=True)])


def producing_rows(length: int) -> int:
    """How many rows produce an answer of so many tokens.

    They are those of the last prompt token and of all tokens of the answer but the last; of an empty answer, that which
    produces its end token.
    """
    return max(length, 1)


def left_padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(row, token) ids and which of them are real."""
    longest = max(map(len, rows))
    ids = [[pad] * (longest - len(row)) + list(row) for row in rows]
    real = [[False] * (longest - len(row)) + [True] * len(row) for row in rows]
    return torch.tensor(ids, dtype=torch.long, device=device), torch.tensor(real, dtype=torch.bool, device=device)


def embedded(
    adapter: Adapter, prompts: Sequence[Sequence[int]], compressed: Compressed, repack: bool
) -> tuple[Tensor, Layout]:
    """Input embeddings of left-padded prompts, and what their tokens are."""
    ids, mask = left_padded(prompts, adapter.pad_token, compressed.tokens.device)
    inputs, layout = pack(adapter, {"input_ids": ids, "attention_mask": mask}, compressed, repack)
    return adapter.embed(inputs["input_ids"], layout.tokens), layout


def _prompted(
    adapter: Adapter, prompts: Sequence[Sequence[int]], compressed: Compressed, repack: bool, stages: Sequence[Cut]
) -> tuple[Blocks, Tensor]:
    states, layout = embedded(adapter, prompts, compressed, repack)
    blocks = Blocks(adapter.decoder, layout, stages, compressed)
    return blocks, blocks.prompt(states)


def _conversed(
    adapter: Adapter, conversations: Sequence[Conversation], compressed: Compressed, repack: bool
) -> tuple[Blocks, Tensor]:
    """The state after every question, whose picture was run once for all that is asked about it."""
    device = compressed.tokens.device
    blocks, _ = _prompted(adapter, [c.prefix for c in conversations], compressed, repack, ())
    blocks.select(torch.tensor([i for i, c in enumerate(conversations) for _ in c.suffixes], device=device))
    tokens, real = left_padded([s for c in conversations for s in c.suffixes], adapter.pad_token, device)
    return blocks, blocks.step(adapter.inner.get_input_embeddings()(tokens), real)


def _answered(
    adapter: Adapter, blocks: Blocks, states: Tensor, limit: int, references: Sequence[Sequence[int]]
) -> Answers:
    """Greedy answers from the prompt's states; each reference is a draft of its answer, verified in one step.

    What the model would have said itself is kept of the draft (Leviathan et al. 2023, arXiv 2211.17192, section 2.3,
    with greedy choice), the rest is taken back; a right answer needs no further step.
    """
    first = adapter.decoder.logits(states[:, -1])
    answers: list[list[int]] = [[] for _ in first]
    unknown = torch.full((len(first),), torch.nan, device=first.device)
    if not references:
        return Answers(_greedy(adapter, blocks, first, answers, limit), unknown)
    drafts, real = left_padded(references, adapter.pad_token, first.device)
    states = blocks.step(adapter.inner.get_input_embeddings()(drafts), real)
    # the first token of a draft is foretold by the prompt, each later one by the token before it
    logits = torch.cat([first[:, None], adapter.decoder.logits(states)], 1)
    start = real.shape[1] - real.sum(1)
    logits[torch.arange(len(start)), start] = first
    agreed = ((logits[:, :-1].argmax(-1) == drafts) | ~real).cumprod(1).bool() & real
    said = agreed.sum(1)
    for row, (count, reference) in enumerate(zip(said.tolist(), references, strict=True)):
        answers[row] = [token for token in reference[:count] if token not in adapter.ends][:limit]
    ended = (said == real.sum(1)) & torch.isin(drafts[:, -1], torch.tensor(adapter.ends, device=drafts.device))
    if (going := ~ended & (said < limit)).any():
        rows = going.nonzero()[:, 0]
        blocks.forget(real & ~agreed)
        blocks.select(rows)
        rest = _greedy(adapter, blocks, logits[rows, (start + said)[rows]], [answers[i] for i in rows.tolist()], limit)
        for row, tokens in zip(rows.tolist(), rest, strict=True):
            answers[row] = tokens
    return Answers(answers, _log_probability(logits[:, :-1], drafts, real))


def _log_probability(
    logits: Float[Tensor, "row token word"], tokens: Int[Tensor, "row token"], real: Bool[Tensor, "row token"]
) -> Float[Tensor, " row"]:
    """Of the real ones of these tokens, by the logits with which each was foretold."""
    return (logits.float().log_softmax(-1).gather(2, tokens[..., None])[..., 0] * real).sum(1)


def _greedy(
    adapter: Adapter,
    blocks: Blocks,
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
