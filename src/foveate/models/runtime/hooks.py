"""Hooks on a decoder's blocks that cut a prompt inside stock `forward` and `generate`, in its own passes."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from foveate.models.backbone.decoder import Decoder
from foveate.models.runtime.kv_cache import holds_tokens, length_of
from foveate.models.runtime.pruning import Pruning


class Conversation:
    """One call of `generate` or `forward` with a shortened prompt.

    The model may run other prompts meanwhile: a logits processor that guides or rates, or another thread.

    Args:
        pruning: What happens to the prompt inside the language model.
        given: The shortened prompt's image features, as they were handed to the stock model.
        prompt: Batch size and length of the shortened prompt.
        late: See `Layout`.
    """

    def __init__(
        self, pruning: Pruning, given: object = None, prompt: tuple[int, int] = (0, 0), late: Tensor | None = None
    ) -> None:
        self.pruning = pruning
        self.prompting = True
        self.cache: Any = None
        self._given, self._prompt, self._late = given, prompt, late
        self._begun = False
        self._thread: int | None = None

    def owns(self, given: object, cache: object) -> bool:
        """Tells whether a pass of the model belongs to this conversation; its first pass always does.

        Args:
            given: Image features that the pass is given.
            cache: Key-value cache that the pass is given.
        """
        if not self._begun:
            self._begun, self.cache = True, cache
            return True
        return given is self._given if self.cache is None else cache is self.cache

    @property
    def acts(self) -> bool:
        """Whether a pass of this conversation is running in this thread."""
        return self._thread == get_ident()

    @contextmanager
    def acting(self, prompting: bool) -> Iterator[None]:
        """While active, the passes of the model in this thread belong to this conversation.

        Args:
            prompting: Whether they run the prompt, and not what follows it.
        """
        self._thread, self.prompting = get_ident(), prompting
        try:
            with self.pruning.listening():
                yield
        finally:
            self._thread = None

    @contextmanager
    def passing(self, inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """While active, one pass of stock `generate` runs; yields its inputs as the shortened prompt calls for them."""
        ids, more, past = inputs["input_ids"], {}, 0
        if self.pruning.cuts or self._late is not None:  # else nobody asks: it may be a number on the device
            past = length_of(self.cache) if holds_tokens(self.cache) else 0
        if self.pruning.cuts and past == 0:
            self.pruning.expand(len(ids) // self._prompt[0])
        elif self.pruning.cuts:
            self.pruning.advance(torch.ones_like(ids, dtype=torch.bool))
        if self.cache is None and inputs.get("attention_mask") is None:  # without it holes in positions part sequences
            more["attention_mask"] = torch.ones_like(ids)
        if self._late is not None and past + ids.shape[1] > self._prompt[1]:
            more["position_ids"] = self._placed(inputs["position_ids"], past, self._late)
        with self.acting(past == 0):
            yield {**inputs, **more}

    def _placed(self, position: Tensor, past: int, late: Tensor) -> Tensor:
        """Positions of a pass, those behind the prompt as late as they have to be."""
        if position.ndim == 2:
            late = late[0]
        elif len(position) > len(late):  # the first of them count the tokens
            late = torch.cat([torch.zeros_like(late[:1]), late])
        late = late.repeat_interleave(position.shape[-2] // late.shape[-1], -1)[..., None].to(position.device)
        behind = torch.arange(past, past + position.shape[-1], device=position.device) >= self._prompt[1]
        return position + late * behind


@contextmanager
def hooked(decoder: Decoder, conversation: Conversation) -> Iterator[None]:
    """While active, the prompt of a conversation is cut before its cuts' blocks; later passes get what these know.

    Kernels are not given its positions: queries and keys are rotated before, and flash kernels would take holes in them
    for the borders of packed sequences.
    """
    pruning = conversation.pruning
    state: dict[str, Any] = {}
    asking = False  # a block is asked for its queries and keys ahead of its own pass

    @torch.compiler.disable  # it asks for values, around which the compiler has to go
    def hook(block: nn.Module, args: tuple, kwargs: dict[str, Any], number: int) -> tuple[tuple, dict[str, Any]] | None:
        nonlocal asking
        if not conversation.acts or asking:
            return None
        states, cache, prompt = args[0], kwargs[decoder.cache_argument], conversation.prompting
        if prompt:
            asking = True
            try:
                states = pruning.enter(number, states)
            finally:
                asking = False
        segment = pruning.segment(number)
        kernels = {"position_ids": None}
        if segment.start == 0:
            return (states, *args[1:]), kwargs | kernels
        if number == segment.start:
            state["attention_mask"] = decoder.mask(states, segment.real, cache, number)
            if prompt:
                state["position_embeddings"] = decoder.rotation(states, pruning.tokens.position)
            elif len(pruning.tokens.position) == 1:
                position = kwargs["position_ids"] - segment.shift[:, None].to(kwargs["position_ids"].device)
                state["position_embeddings"] = decoder.rotation(states, position[None])
            else:  # whose positions were kept, so nothing lags behind
                state["position_embeddings"] = kwargs["position_embeddings"]
        return (states, *args[1:]), kwargs | state | kernels

    with ExitStack() as stack:
        for number, block in enumerate(decoder.blocks):
            stack.callback(block.register_forward_pre_hook(partial(hook, number=number), with_kwargs=True).remove)
        yield
