"""The attention tap: rows of the attention matrix of a stock model while its fast kernel runs.

Inside the context the model's attention function is one of ours, which hands query and key to whoever listens and then
calls the kernel that the model was configured with. The mask function is registered with it: without that,
transformers drops the padding mask of unknown attention functions silently.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

Listener = Callable[[int, Tensor, Tensor, float], None]
"""Called with layer number, query, key (batch, head, token, dim) and scaling."""

# transformers looks for "flash" and "flex" in the name to pick mask layouts; aliases must not contain them by accident.
_ALIASES = {"sdpa": "foveate_tap_sdpa", "eager": "foveate_tap_sdpa", "flash_attention_2": "foveate_tap_fa2"}
_KERNELS = {"foveate_tap_sdpa": "sdpa", "foveate_tap_fa2": "flash_attention_2"}


@dataclass(frozen=True, eq=False)
class _Tap:
    layer_of: Mapping[nn.Module, int]
    listener: Listener


_active: ContextVar[tuple[_Tap, ...]] = ContextVar("foveate_taps", default=())


@contextmanager
def tapped(model: PreTrainedModel, attention_layers: Mapping[nn.Module, int], listener: Listener) -> Iterator[None]:
    """While active, `listener` hears every attention call of the given modules.

    A model configured as "eager" runs SDPA meanwhile. Other models in the process, and the same model afterwards, are
    untouched, also after an exception.

    Args:
        model: The (sub-)model whose configuration picks the attention function.
        attention_layers: Its attention modules and their layer numbers.
        listener: See `Listener`.
    """
    before = model.config._attn_implementation
    alias = before if before in _KERNELS else _register(before)
    taps = _active.set((*_active.get(), _Tap(attention_layers, listener)))
    model.config._attn_implementation = alias
    try:
        yield
    finally:
        model.config._attn_implementation = before
        _active.reset(taps)


def _register(implementation: str | None) -> str:
    implementation = implementation or "eager"
    alias = _ALIASES.get(implementation, f"foveate_tap_{implementation}")
    kernel = _KERNELS.setdefault(alias, implementation)
    AttentionInterface.register(alias, _attention_through(kernel))
    AttentionMaskInterface.register(alias, ALL_MASK_ATTENTION_FUNCTIONS[kernel])
    return alias


def _attention_through(kernel: str) -> Callable:
    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor | None]:
        for tap in _active.get():
            if module in tap.layer_of:
                tap.listener(tap.layer_of[module], query, key, scaling or query.shape[-1] ** -0.5)
        run = ALL_ATTENTION_FUNCTIONS[kernel]
        return run(module, query, key, value, attention_mask, scaling=scaling, **kwargs)

    return attention
