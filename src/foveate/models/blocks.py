"""The project's own loop over the blocks of a language model."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import DynamicCache

from foveate.core.contracts import Cut
from foveate.core.needs import Role
from foveate.core.types import Compressed
from foveate.functional.sequence import positions
from foveate.models.cutting import cuts_of
from foveate.models.decoder import Decoder, Layout


class Blocks:
    """A prompt with cuts, then whatever follows it.

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

    def prompt(self, states: Tensor, common: int = 0) -> Tensor:
        """Runs the prompt's embeddings; returns the last block's states.

        Args:
            states: The embeddings.
            common: So many first tokens are text that all prompts have in common; they run once, and states of the
                others are returned. Only without stages.
        """
        with self.cutting.listening():
            if not common:
                return self._prompt(states)
            self._prompt(states[:1, :common])
            self.cache.batch_repeat_interleave(len(states))
            return self._prompt(states[:, common:], common)

    def _prompt(self, states: Tensor, before: int = 0) -> Tensor:
        """The tokens of the first prompts that stand behind so many others."""
        prompts, until = len(states), before + states.shape[1]
        position, mask, rotation = self.layout.position, None, None
        for number, block in enumerate(self.decoder.blocks):
            states = self.cutting.enter(number, states)
            if number == self.cutting.segment(number).start:  # a new sequence from here on
                until = until if number == 0 else states.shape[1]
                position = self.cutting.tokens.position[:, :prompts, before:until]
                mask = self.decoder.mask(states, self.cutting.tokens.real[:prompts, :until], self.cache, number)
                rotation = self.decoder.rotation(states, position)
            states = self._run(block, states, mask, position[0], rotation)
            if number < len(self.layout.deep):
                seen = self.layout.role[:prompts, before:until] == Role.VISUAL
                if seen.any():
                    deep = states[seen] + self.layout.deep[number].to(states.dtype)
                    states = states.masked_scatter(seen[..., None], deep)
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
            use_cache=True,
            position_embeddings=rotation,
            **{self.decoder.cache_argument: self.cache},
        )
