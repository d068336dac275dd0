"""Hooks on a decoder's blocks that apply cuts inside the passes of stock `forward` and `generate`."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from foveate.core.errors import FoveateError
from foveate.models.backbone.decoder import Decoder
from foveate.models.runtime.kv_cache import holds_tokens, length_of
from foveate.models.runtime.pruning import Pruning


class CompressedCall:
    """One call of `generate` or `forward` with a shortened prompt.

    The model may run other prompts meanwhile, for a logits processor or in another thread.

    Args:
        pruning: The cuts of the prompt inside the language model.
        features: The shortened prompt's image features, as the stock model receives them.
        prompt: Batch size and length of the shortened prompt.
        late: Offset of the positions after the prompt; see `Layout`.
    """

    def __init__(
        self, pruning: Pruning, features: object = None, prompt: tuple[int, int] = (0, 0), late: Tensor | None = None
    ) -> None:
        self.pruning = pruning
        self.prompting = True
        self.cache: Any = None
        self.chosen: tuple[Any, Any, Any] | None = None  # as `Result.note` takes it; set when the call has ended
        self._features, self._prompt, self._late = features, prompt, late
        self._begun = False
        self._thread: int | None = None

    def owns(self, features: object, cache: object) -> bool:
        """Returns whether a pass of the model belongs to this call; the first pass always does.

        Args:
            features: Image features that the pass receives.
            cache: Key-value cache that the pass receives.
        """
        if not self._begun:
            self._begun, self.cache = True, cache
            return True
        return features is self._features if self.cache is None else cache is self.cache

    @property
    def acts(self) -> bool:
        """Returns whether a pass of this call is running in this thread."""
        return self._thread == get_ident()

    @contextmanager
    def acting(self, prompting: bool) -> Iterator[None]:
        """Assigns the passes of the model in this thread to this call while the context is active.

        Args:
            prompting: Whether the passes run the prompt, not later tokens.
        """
        self._thread, self.prompting = get_ident(), prompting
        try:
            with self.pruning.listening() if prompting else nullcontext():
                yield
        finally:
            self._thread = None

    def run(self, stock: Callable, inputs: dict[str, Any]) -> Any:  # noqa: ANN401 (as in transformers)
        """Returns the output of one pass of stock `generate`, whose inputs are adapted to the shortened prompt.

        Without hooks in the blocks a pass has nothing that `torch.compile` could not make one graph of.
        """
        if not (self.pruning.cuts or self.pruning.decoder.flashes):
            return stock(**self._adapted(inputs))
        with self._passing(inputs):
            return stock(**self._adapted(inputs))

    @contextmanager
    def _passing(self, inputs: dict[str, Any]) -> Iterator[None]:
        """Updates the pruning for one pass, which belongs to this call while the context is active."""
        ids, past = inputs["input_ids"], 0
        if self.pruning.cuts:  # reading the length may synchronize with the device
            past = length_of(self.cache) if holds_tokens(self.cache) else 0
        if self.pruning.cuts and past == 0:
            self.pruning.expand(len(ids) // self._prompt[0])
        elif self.pruning.cuts:
            self.pruning.advance(torch.ones_like(ids, dtype=torch.bool), padded=False)
        with self.acting(past == 0):
            yield

    def _adapted(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Returns the inputs of one pass with the mask and the positions of the shortened prompt."""
        ids, more = inputs["input_ids"], {}
        if self.cache is None and inputs.get("attention_mask") is None:
            # Without a mask, transformers takes gaps in positions for the borders of packed sequences.
            more["attention_mask"] = torch.ones_like(ids)
        if self._late is not None and inputs.get("position_ids") is not None:
            past = 0 if self.cache is None else self.cache.get_seq_length()  # of a static cache a tensor, never read
            more["position_ids"] = self._placed(inputs["position_ids"], past, self._late)
        return {**inputs, **more}

    def _placed(self, position: Tensor, past: int | Tensor, late: Tensor) -> Tensor:
        """Adds the offset `late` to the positions after the prompt."""
        if position.ndim == 2:
            late = late[0]
        elif len(position) > len(late):  # the first axis counts the tokens
            late = torch.cat([torch.zeros_like(late[:1]), late])
        late = late.repeat_interleave(position.shape[-2] // late.shape[-1], -1)[..., None].to(position.device)
        after = torch.arange(position.shape[-1], device=position.device) + past >= self._prompt[1]
        return position + late * after


@contextmanager
def naming_one_graph(cuts: bool) -> Iterator[None]:
    """Replaces torch's error about a compiled model, which names lines of torch alone, where cuts are the reason.

    Args:
        cuts: Whether the method cuts inside the language model.

    Raises:
        FoveateError: A pass inside the context was to be compiled as one graph (`fullgraph=True`), and there are cuts.
    """
    try:
        yield
    except RuntimeError as error:
        if not cuts or not type(error).__module__.startswith("torch._dynamo"):  # importing it takes a second
            raise
        raise FoveateError(
            "torch.compile with fullgraph=True does not work with a method that cuts inside the language model, where "
            "tokens are chosen between blocks: compile with fullgraph=False, or use a method that compresses before "
            "the language model"
        ) from error


@contextmanager
def hooked(decoder: Decoder, call: CompressedCall) -> Iterator[None]:
    """Applies the cuts of a call before their blocks; in later passes each block gets its own mask and positions.

    Kernels receive no positions: queries and keys are rotated before, and flash kernels would take gaps in positions
    for the borders of packed sequences.
    """
    pruning = call.pruning
    state: dict[str, Any] = {}
    entering = False  # `pruning.enter` may run a block, whose hook then must do nothing

    @torch.compiler.disable  # the hook reads values of tensors
    def hook(block: nn.Module, args: tuple, kwargs: dict[str, Any], number: int) -> tuple[tuple, dict[str, Any]] | None:
        nonlocal entering
        if not call.acts or entering:
            return None
        states, cache, prompt = args[0], kwargs[decoder.cache_argument], call.prompting
        if prompt:
            entering = True
            try:
                states = pruning.enter(number, states)
            finally:
                entering = False
        segment = pruning.segment(number)
        kernels = {"position_ids": None}
        if segment.start == 0:
            return (states, *args[1:]), kwargs | kernels
        if number == segment.start:
            state["attention_mask"] = decoder.mask(states, segment.real, cache, number, segment.padded)
            if prompt:
                state["position_embeddings"] = decoder.rotation(states, pruning.tokens.position)
            elif len(pruning.tokens.position) == 1:
                position = kwargs["position_ids"] - segment.shift[:, None].to(kwargs["position_ids"].device)
                state["position_embeddings"] = decoder.rotation(states, position[None])
            else:  # positions with several axes are never renumbered
                state["position_embeddings"] = kwargs["position_embeddings"]
        return (states, *args[1:]), kwargs | state | kernels

    with ExitStack() as stack:
        for number, block in enumerate(decoder.blocks):
            stack.callback(block.register_forward_pre_hook(partial(hook, number=number), with_kwargs=True).remove)
        yield
