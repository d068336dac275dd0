"""Passes of a stock language model over prompts that foveate has embedded."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, DynamicLayer

from foveate.core.compression import Compressed
from foveate.core.contracts import Cut
from foveate.core.needs import Role
from foveate.core.transfer import on_device
from foveate.functional.sequence import positions
from foveate.models.backbone.decoder import Decoder, Layout
from foveate.models.runtime.branches import Branches, SharedRows
from foveate.models.runtime.hooks import CompressedCall, hooked
from foveate.models.runtime.pruning import pruning_of


class DecoderPasses:
    """Passes over a batch of prompts with cuts, then over the tokens that follow.

    Args:
        decoder: The language model.
        layout: Role, patch and position of the prompts' tokens.
        cuts: Cuts inside the language model.
        compressed: The compressed images, with the answers that the cuts read.
    """

    def __init__(self, decoder: Decoder, layout: Layout, cuts: Sequence[Cut], compressed: Compressed) -> None:
        self.decoder, self.layout = decoder, layout
        self.pruning = pruning_of(decoder, layout, cuts, compressed)
        self.cache = DynamicCache(config=decoder.config)
        self.following = layout.following  # position of the next token without cuts
        self._call = CompressedCall(self.pruning)
        self._shared: SharedRows | None = None

    def prompt(self, states: Tensor, common: int = 0) -> Tensor:
        """Runs the prompts and returns the normalised states of the last block.

        Args:
            states: Input embeddings of the prompts.
            common: Number of leading text tokens that all prompts share. They run once, and their states are not
                returned. Must be 0 if there are cuts.
        """
        if common:
            self._prompt(states[:1, :common])
            self.cache.batch_repeat_interleave(len(states))
        return self._prompt(states[:, common:], common)

    def branch(self, branches: Branches) -> Tensor:
        """Runs texts after their prompts and returns the normalised states of the last block, left-padded.

        From here on, there is a row for each text instead of each prompt.

        Args:
            branches: The texts. There must be no cuts.
        """
        embed = self.decoder.model.get_input_embeddings()
        if not self.decoder.takes_masks:
            self.select(branches.owners)
            return self.step(embed(branches.tokens), branches.real)
        prompts = self.pruning.segments[0].real
        position = (self.following[:, None] + branches.offset).expand(len(self.layout.position), -1, -1)
        states = embed(branches.packed)
        mask = self.decoder.as_given(branches.mask(prompts), states)
        states = self._run(states, position, prompts, False, attention_mask=mask)
        size = len(prompts), prompts.shape[1] + states.shape[1]
        self._shared = SharedRows(branches.owners, branches.slots(prompts.shape[1]), size)
        self.pruning.select(branches.owner)
        self.pruning.advance(branches.real)
        self.following = self.following[branches.owner] + branches.real.sum(1)
        return states[branches.owner[:, None], branches.column]

    def step(self, states: Tensor, real: Tensor, padded: bool | None = None) -> Tensor:
        """Runs further tokens, left-padded, and returns the normalised states of the last block.

        Args:
            states: Input embeddings of the tokens.
            real: (batch, token) bool, marks the tokens that are not padding.
            padded: Whether there is padding; None if the host does not know.
        """
        together = self._shared is not None and states.shape[1] == 1 and self._shared.worthwhile
        if self._shared is not None and not together:
            self._separate(self._shared)
        self.pruning.advance(real, padded)
        following, self.following = self.following, self.following + real.sum(1)
        if self._shared is not None:
            return self._step_together(self._shared, states, following)
        position = (following[:, None] + positions(real)).expand(len(self.layout.position), -1, -1)
        return self._run(states, position, self.pruning.segments[0].real, False)

    def _step_together(self, before: SharedRows, states: Tensor, following: Tensor) -> Tensor:
        """Runs one further token of each text, those of a prompt in one row."""
        new, self._shared = before.next_token, before.extended()
        prompts = self.pruning.segments[0].real
        mask = new.packed(self._shared.mask(prompts))
        mask[:, :, before.size[1] :].diagonal(dim1=1, dim2=2).fill_(True)  # without any slot, a token is not a number
        position = new.packed(following).expand(len(self.layout.position), -1, -1)
        mask = self.decoder.as_given(mask[:, None], states)
        output = self._run(new.packed(states[:, 0]), position, prompts, False, attention_mask=mask)
        return output[new.row, new.column][:, None]

    def _separate(self, shared: SharedRows) -> None:
        """Gives each text keys and values of its own."""
        own, real = shared.of(self.pruning.segments[0].real)
        self.pruning.keep(real)
        self._shared = None
        layers: Any = self.cache.layers
        for layer in layers:
            layer.keys, layer.values = own(layer.keys), own(layer.values)

    def forget(self, tokens: Tensor) -> None:
        """Removes tokens of the last step: (batch, token) bool, left-padded as in `step`."""
        self.pruning.forget(tokens)
        self.following = self.following - tokens.sum(1)

    def select(self, rows: Sequence[int]) -> None:
        """Selects the prompts to continue with; rows may repeat, in ascending order."""
        index = on_device(torch.tensor(rows), self.following.device)
        self.pruning.select(index)
        self.following = self.following[index]
        if self._shared is not None:
            self._shared = self._shared.chosen(rows)
            return
        layers: Any = self.cache.layers
        for layer in layers:  # layers may be on different devices
            own = index.to(getattr(layer, "keys", index).device)
            if type(layer) is DynamicLayer and layer.keys is not None and layer.values is not None:
                layer.keys, layer.values = layer.keys.index_select(0, own), layer.values.index_select(0, own)  # faster
            else:
                layer.batch_select_indices(own)

    def _prompt(self, states: Tensor, before: int = 0) -> Tensor:
        """Runs the first `len(states)` prompts from token `before` on."""
        prompts, until = len(states), before + states.shape[1]
        more: dict[str, Any] = {}
        visual = self.layout.role[:prompts, before:until] == Role.VISUAL
        if self.layout.deepstack and visual.any():
            levels = [level.to(states.dtype) for level in self.layout.deepstack]
            more = {"visual_pos_masks": visual, "deepstack_visual_embeds": levels}
        position = self.layout.position[:, :prompts, before:until]
        real = self.pruning.segments[0].real[:prompts, :until]
        if self.decoder.prompt_masks is not None:
            role = self.layout.role[:prompts, :until]
            image = (role == Role.VISUAL) | (role == Role.SEPARATOR)
            more["attention_mask"] = self.decoder.prompt_masks(states, real, position[0], self.cache, image)
        return self._run(states, position, real, True, **more)

    def _run(self, states: Tensor, position: Tensor, real: Tensor, prompting: bool, **more: Any) -> Tensor:  # noqa: ANN401
        with ExitStack() as stack:
            if self.pruning.cuts or self.decoder.flashes:
                stack.enter_context(hooked(self.decoder, self._call))
                stack.enter_context(self._call.acting(prompting))
            output = self.decoder.model(
                inputs_embeds=states,
                position_ids=position if len(position) > 1 else position[0],
                use_cache=True,
                **{"attention_mask": real.long(), self.decoder.cache_argument: self.cache, **more},
            )
        return output.last_hidden_state.to(states.device)  # the last block may be on another device
