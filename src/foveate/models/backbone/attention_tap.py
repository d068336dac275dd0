"""The attention tap, which reads queries and keys of a stock model while its fast kernel runs.

Inside the context the model's attention function is replaced by one that passes query and key to a listener and then
calls the kernel that the model was configured with. The mask function is registered with it: without that,
transformers silently drops the padding mask of unknown attention functions.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from foveate.models.backbone.internals import internal

Listener = Callable[[int, Tensor, Tensor, float], None]
"""A callback that receives layer number, query, key (batch, head, token, dim) and scaling."""

# No alias may contain "flash" or "flex": transformers chooses the layout of the mask by these parts of a name.
_ALIASES = {"eager": "foveate_tap_sdpa", "flash_attention_2": "foveate_tap_fa2", "flash_attention_3": "foveate_tap_fa3"}
_registered: set[str] = set()


@dataclass(frozen=True, eq=False)
class _Tap:
    layer_of: Mapping[nn.Module, int]
    listener: Listener


_active: ContextVar[tuple[_Tap, ...]] = ContextVar("foveate_taps", default=())
# Threads may overlap in one model: the first to enter replaces its attention function, the last to leave restores it.
_lock = Lock()
_entered: dict[int, tuple[str | None, int]] = {}


@contextmanager
def tapped(model: PreTrainedModel, attention_layers: Mapping[nn.Module, int], listener: Listener) -> Iterator[None]:
    """Calls `listener` with every attention call of the given modules while the context is active.

    A model configured as "eager" runs SDPA meanwhile. Other models in the process are not changed, and the model's
    attention function is restored on leaving, also after an exception.

    Args:
        model: The (sub-)model whose configuration names the attention function.
        attention_layers: Its attention modules and their layer numbers.
        listener: Receives the attention calls; see `Listener`.
    """
    with _lock:
        before, inside = _entered.get(id(model.config), (model.config._attn_implementation, 0))
        _entered[id(model.config)] = before, inside + 1
        model.config._attn_implementation = _alias(before)
    taps = _active.set((*_active.get(), _Tap(attention_layers, _uncompiled(listener))))
    try:
        yield
    finally:
        _active.reset(taps)
        with _lock:
            before, inside = _entered.pop(id(model.config))
            if inside > 1:
                _entered[id(model.config)] = before, inside - 1
            else:
                model.config._attn_implementation = before


def _uncompiled(listener: Any) -> Any:  # noqa: ANN401 (torch types its decorator as one of functions only)
    """Returns the listener excluded from `torch.compile`, because it reads values of tensors."""
    return torch.compiler.disable(listener)


def _alias(implementation: str | None) -> str:
    """Returns the name of the tapped version of a kernel; registers it with its mask function at first use."""
    implementation = implementation or "eager"
    kernel = "sdpa" if implementation == "eager" else implementation
    alias = _ALIASES.get(implementation, f"foveate_tap_{implementation}")
    if alias not in _registered:
        AttentionInterface.register(alias, _attention_through(kernel))
        AttentionMaskInterface.register(alias, internal("masking_utils.ALL_MASK_ATTENTION_FUNCTIONS")[kernel])
        _registered.add(alias)
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
        run = internal("modeling_utils.ALL_ATTENTION_FUNCTIONS")[kernel]
        if kernel == "sdpa":
            return run(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        configured: Any = module.config
        module.config = copy(configured)  # flash kernels read their own name from it
        module.config._attn_implementation = kernel
        try:
            return run(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        finally:
            module.config = configured

    return attention
