"""Hooks on a decoder's blocks that cut a prompt inside stock `forward` and `generate`, in its own passes."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import get_ident
from typing import Any

import torch
from torch import nn

from foveate.models.cutting import Cutting
from foveate.models.decoder import Decoder


class Conversation:
    """One call of `generate` or `forward` with a shortened prompt.

    The model may run other prompts meanwhile: a logits processor that guides or rates, or another thread.

    Args:
        cuts: What happens to the prompt inside the language model.
        given: The shortened prompt's image features, as they were handed to the stock model.
    """

    def __init__(self, cuts: Cutting, given: object) -> None:
        self.cuts = cuts
        self._given, self._cache = given, None
        self._begun = False
        self._thread: int | None = None

    def owns(self, given: object, cache: object) -> bool:
        """Tells whether a pass of the model belongs to this conversation; its first pass always does.

        Args:
            given: Image features that the pass is given.
            cache: Key-value cache that the pass is given.
        """
        if not self._begun:
            self._begun, self._cache = True, cache
            return True
        return given is self._given if self._cache is None else cache is self._cache

    @property
    def acts(self) -> bool:
        """Whether a pass of this conversation is running in this thread."""
        return self._thread == get_ident()

    @contextmanager
    def acting(self) -> Iterator[None]:
        """While active, the passes of the model in this thread belong to this conversation."""
        self._thread = get_ident()
        try:
            with self.cuts.listening():
                yield
        finally:
            self._thread = None


@contextmanager
def hooked(decoder: Decoder, conversation: Conversation) -> Iterator[None]:
    """While active, the prompt of a conversation is cut before its stages' blocks; later passes get what these know."""
    cuts = conversation.cuts
    prompt, state = True, {}

    @torch.compiler.disable  # it asks for values, around which the compiler has to go
    def hook(block: nn.Module, args: tuple, kwargs: dict[str, Any], number: int) -> tuple[tuple, dict[str, Any]] | None:
        nonlocal prompt
        if not conversation.acts:
            return None
        states, cache = args[0], kwargs[decoder.cache_argument]
        if number == 0:
            prompt = cache is None or cache.get_seq_length() == 0
            if prompt and len(states) != len(cuts.segments[0].real):
                cuts.expand(len(states) // len(cuts.segments[0].real))
            if not prompt:
                cuts.advance(torch.ones(states.shape[:2], dtype=torch.bool, device=states.device))
        if prompt:
            states = cuts.enter(number, states)
        segment = cuts.segment(number)
        if segment.start == 0:
            return (states, *args[1:]), kwargs
        if number == segment.start:
            state["attention_mask"] = decoder.mask(states, segment.real, cache, number)
            if prompt:
                state["position_ids"] = cuts.tokens.position[0]
                state["position_embeddings"] = decoder.rotation(states, cuts.tokens.position)
            elif len(cuts.tokens.position) == 1:
                state["position_ids"] = kwargs["position_ids"] - segment.shift[:, None]
                state["position_embeddings"] = decoder.rotation(states, state["position_ids"][None])
            else:  # whose positions were kept, so nothing lags behind
                state["position_ids"] = kwargs["position_ids"]
                state["position_embeddings"] = kwargs["position_embeddings"]
        return (states, *args[1:]), {**kwargs, **state}

    with ExitStack() as stack:
        for number, block in enumerate(decoder.blocks):
            stack.callback(block.register_forward_pre_hook(partial(hook, number=number), with_kwargs=True).remove)
        yield
