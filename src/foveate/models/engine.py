"""Greedy answers to many questions about few pictures, with as much shared as the method allows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from foveate.core.contracts import Cut
from foveate.core.needs import ResponseRows, Role, resolve_layer
from foveate.core.types import Compressed
from foveate.functional.attention import attention_rows
from foveate.functional.sequence import positions
from foveate.models.cutting import Cutting, cuts_of
from foveate.models.decoder import Decoder
from foveate.models.llava import Llava
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
        self.following = layout.position[:, -1] + 1  # position of the next token, were nothing cut

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
                states = self._run(block, states, mask, position, rotation)
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
                rotation = self.decoder.rotation(states, position)
            states = self._run(block, states, mask, position, rotation)
        self.following = self.following + real.sum(1)
        return states

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
    llava: Llava, conversations: Sequence[Conversation], compressed: Compressed, repack: bool, max_new_tokens: int
) -> list[list[int]]:
    """New tokens for every question, conversation by conversation, without the end token.

    Keys and values of what precedes the questions are computed once per picture.

    Args:
        llava: The model.
        conversations: One per picture.
        compressed: One row per picture.
        repack: See `pack`.
        max_new_tokens: Longest answer.
    """
    device = compressed.tokens.device
    ids, mask = _left_padded([c.prefix for c in conversations], llava.pad_token, device)
    inputs, layout = pack(llava, {"input_ids": ids, "attention_mask": mask}, compressed, repack)
    blocks = Blocks(llava.decoder, layout, (), compressed)
    blocks.prompt(_embedded(llava, inputs))
    if not repack:
        blocks.following = mask.sum(1)  # the last patch, whose position counts, may be gone
    blocks.select(torch.tensor([i for i, c in enumerate(conversations) for _ in c.suffixes], device=device))
    tokens, real = _left_padded([s for c in conversations for s in c.suffixes], llava.pad_token, device)
    states = blocks.step(llava.inner.get_input_embeddings()(tokens), real)
    return _greedy(llava, blocks, states, max_new_tokens)


@torch.inference_mode()
def answer_each(
    llava: Llava,
    prompts: Sequence[Sequence[int]],
    compressed: Compressed,
    repack: bool,
    stages: Sequence[Cut],
    max_new_tokens: int,
) -> tuple[list[list[int]], Cutting]:
    """New tokens for every prompt when stages inside the language model cut it, and what they cut.

    Args:
        llava: The model.
        prompts: Full prompts of one image each.
        compressed: One row per prompt.
        repack: Of the vision side; see `pack`.
        stages: See `Cutting`.
        max_new_tokens: Longest answer.
    """
    blocks, states = _prompted(llava, prompts, compressed, repack, stages)
    return _greedy(llava, blocks, states, max_new_tokens), blocks.cutting


@torch.inference_mode()
def response_rows(
    llava: Llava, prompts: Sequence[Sequence[int]], full: Compressed, need: ResponseRows, max_new_tokens: int = 32
) -> Tensor:
    """(prompt, layer, head, patch): see `ResponseRows`.

    Args:
        llava: The model.
        prompts: Full prompts of one image each.
        full: Uncompressed, one row per prompt.
        need: The blocks.
        max_new_tokens: Longest answer.
    """
    depth = llava.decoder.depth
    wanted = [resolve_layer(layer, depth, "language model") for layer in need.layers or range(depth)]
    latest: dict[int, tuple[Tensor, Tensor, float]] = {}

    def listen(block: int, query: Tensor, key: Tensor, scaling: float) -> None:
        if block in wanted:
            latest[block] = query[:, :, -1:], key, scaling

    with llava.decoder.tapped(listen):
        blocks, states = _prompted(llava, prompts, full, False, ())
        visual = (blocks.layout.role == Role.VISUAL).nonzero()[:, 1].reshape(len(prompts), -1)
        sums: list[Tensor] = [torch.zeros(())] * len(prompts)
        counts = [0] * len(prompts)

        def note(rows: Tensor, ended: Tensor) -> None:
            real = blocks.cutting.segments[0].real[:, None, None]
            seen = torch.stack([attention_rows(*latest[block], real)[:, :, 0] for block in wanted], 1)
            for i, (row, last) in enumerate(zip(rows.tolist(), ended.tolist(), strict=True)):
                if not last or not counts[row]:  # of an empty answer, what its end token looked at
                    sums[row] = sums[row] + seen[i][..., visual[row]]
                    counts[row] += 1

        _greedy(llava, blocks, states, max_new_tokens, note)
    return torch.stack([total / count for total, count in zip(sums, counts, strict=True)])


def _left_padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(row, token) ids and which of them are real."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows], device=device)
    real = torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in rows], device=device)
    return ids, real


def _prompted(
    llava: Llava, prompts: Sequence[Sequence[int]], compressed: Compressed, repack: bool, stages: Sequence[Cut]
) -> tuple[Blocks, Tensor]:
    ids, mask = _left_padded(prompts, llava.pad_token, compressed.tokens.device)
    inputs, layout = pack(llava, {"input_ids": ids, "attention_mask": mask}, compressed, repack)
    blocks = Blocks(llava.decoder, layout, stages, compressed)
    return blocks, blocks.prompt(_embedded(llava, inputs))


def _embedded(llava: Llava, inputs: dict[str, Any]) -> Tensor:
    return llava.embed(inputs["input_ids"], torch.cat(inputs["mm_encoder_outputs"]["image"].pooler_output))


def _greedy(
    llava: Llava,
    blocks: Blocks,
    states: Tensor,
    limit: int,
    note: Callable[[Tensor, Tensor], None] = lambda rows, ended: None,
) -> list[list[int]]:
    """Decodes on from the prompt's states; `note` hears which rows just answered and which of them are at an end."""
    ends = torch.tensor(llava.ends, device=states.device)
    rows = torch.arange(len(states), device=states.device)
    answers: list[list[int]] = [[] for _ in rows]
    for number in range(limit):
        chosen = llava.decoder.logits(states).argmax(-1)
        open_ = ~torch.isin(chosen, ends)
        note(rows, ~open_)
        for row, token in zip(rows[open_].tolist(), chosen[open_].tolist(), strict=True):
            answers[row].append(token)
        if not open_.any() or number == limit - 1:
            break
        if not open_.all():
            blocks.select(open_.nonzero()[:, 0])
            rows, chosen = rows[open_], chosen[open_]
        embeds = llava.inner.get_input_embeddings()(chosen[:, None])
        states = blocks.step(embeds, torch.ones_like(chosen[:, None], dtype=torch.bool))
    return answers
