"""A device that counts what a GPU would wait for.

Tensors on the device `DEVICE` are computed by the CPU. Inside `counting`, every operation on them counts as a kernel
unless it is a view, and every value or shape that the host needs from them counts as a wait, as do copies between host
and device that are not asynchronous. An operation on tensors of both fails, as on a GPU.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "counted"
_SOURCE = f"{Path(__file__).parents[1] / 'src' / 'foveate'}/"
_aten = torch.ops.aten
_WAITING = {
    _aten._local_scalar_dense,
    _aten.nonzero,
    _aten.masked_select,
    _aten.equal,
    _aten.bincount,
    _aten.unique_dim,
    _aten._unique2,
    _aten.unique_consecutive,
    _aten.linalg_eigh,
    _aten._linalg_eigh,
    _aten._linalg_svd,
    _aten.linalg_qr,
    _aten.linalg_cholesky_ex,
    _aten.linalg_lstsq,
}
"""The operations whose result or shape the host waits for."""
_COPIES = {_aten._to_copy, _aten.copy_}
_FREE = {_aten.detach, _aten.empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty, _aten.lift_fresh}


@dataclass
class Count:
    """Events on the device.

    Attributes:
        waits: Number of waits by place in foveate, "" for those of other code.
        kernels: Number of kernels by place.
    """

    waits: Counter[str] = field(default_factory=Counter)
    kernels: Counter[str] = field(default_factory=Counter)

    @property
    def own(self) -> int:
        """Number of waits in foveate."""
        return self.waits.total() - self.waits[""]


class _Module:
    """The backend module that torch wants of a device; it hides the device from code that looks for one."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return False

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 0

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass


class _Hooks(torch._C._acc.PrivateUse1Hooks):
    def is_available(self) -> bool:
        return False

    def has_primary_context(self, device: int) -> bool:
        return True

    def is_built(self) -> bool:
        return True


@cache
def device() -> torch.device:
    """Returns the device, which is registered at the first call."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module(), hook=_Hooks())
    return torch.device(NAME, 0)


class _Counted(Tensor):
    """A tensor on the device, with its values on the CPU."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> "_Counted":
        made: Any = Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=device(),
        )
        made.values = values
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{NAME}({self.values})"


_counts: list[Count] = []


def _run(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Runs an operation on the CPU, counts it, and returns results on the device where they belong."""
    if func._can_decompose():  # in inference mode compound operations come as a whole
        with _Dispatch():
            if (result := func.decompose(*args, **kwargs)) is not NotImplemented:
                return result
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    on_device = any(isinstance(leaf, _Counted) for leaf in given)
    target = kwargs.get("device")
    leaves = target is not None and torch.device(target).type != NAME
    if not on_device and (target is None or leaves):
        return func(*args, **kwargs)
    if on_device and func.overloadpacket not in _COPIES:
        _refuse_mixed(func, args, given)
    if target is not None and not leaves:
        kwargs = {**kwargs, "device": "cpu"}
    _count(func, args, given, kwargs, leaves)
    if func.overloadpacket is _aten.histc:  # which only accelerators compute of whole numbers
        args = (args[0].float(), *args[1:])
    result = func(*tree_map(_plain, args), **tree_map(_plain, kwargs))
    if func._schema.name.endswith("_") and isinstance(args[0], Tensor):
        return args[0]
    if leaves:
        return result.clone() if any(result is _plain(leaf) for leaf in given) else result
    if "out" in kwargs:
        return kwargs["out"]
    if func.overloadpacket in _COPIES and any(result is _plain(leaf) for leaf in given):
        result = result.clone()
    return tree_map(lambda x: _Counted(x) if isinstance(x, Tensor) else x, result)


def _plain(leaf: Any) -> Any:
    return leaf.values if isinstance(leaf, _Counted) else leaf


def _refuse_mixed(func: Any, args: tuple, given: list[Tensor]) -> None:
    """Raises an error for operations on tensors of host and device; indices and single numbers may be on the host."""
    if func.overloadpacket in (_aten.index, _aten.index_put_, _aten.index_put, _aten._index_put_impl_):
        given = [args[0]]
    if host := [leaf for leaf in given if not isinstance(leaf, _Counted) and leaf.ndim]:
        raise RuntimeError(f"{func}: expected all tensors on the same device, found one of {host[0].shape} on the CPU")


def _count(func: Any, args: tuple, given: list[Tensor], kwargs: dict[str, Any], leaves: bool) -> None:
    place, packet = _place(), func.overloadpacket
    waits = packet in _WAITING
    if packet in _COPIES:
        crosses = leaves or len({isinstance(leaf, _Counted) for leaf in given}) > 1
        crosses |= not any(isinstance(leaf, _Counted) for leaf in given)
        blocking = not (kwargs.get("non_blocking") or (packet is _aten.copy_ and True in args[2:]))
        waits = crosses and (blocking or leaves) and any(leaf.numel() for leaf in given)
    elif packet in (_aten.index, _aten.index_put_, _aten.index_put, _aten._index_put_impl_):
        indices = [index for index in args[1] if index is not None]
        filled = packet is not _aten.index and args[2].numel() == 1
        waits = any(index.dtype == torch.bool for index in indices) and not filled
        waits |= any(not isinstance(index, _Counted) for index in indices)
    elif packet is _aten.repeat_interleave:
        waits = kwargs.get("output_size") is None
    for count in _counts:
        if waits:
            count.waits[place] += 1
        if not (packet in _FREE or _is_view(func)):
            count.kernels[place] += 1


@cache
def _is_view(func: Any) -> bool:
    aliases = [result.alias_info for result in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def _place() -> str:
    """Returns file, line and function of the innermost frame if it is of foveate, or "" if it is of transformers.

    The masks of transformers count to who wants them.
    """
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if "/transformers/" in file and not file.endswith("/masking_utils.py"):
            return ""
        if file.startswith(_SOURCE):
            return f"{file.removeprefix(_SOURCE)}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return ""


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        return _run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Functions that read or write values of a device without an operation that a dispatch mode would see."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        target = kwargs.get("device")
        if func in (torch.tensor, torch.as_tensor) and target is not None and torch.device(target).type == NAME:
            data = tree_map(lambda part: part.item() if isinstance(part, _Counted) else part, args[0])
            return func(data, *args[1:], **{**kwargs, "device": None}).to(target)
        if func is Tensor.new_tensor and isinstance(args[0], _Counted):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}).to(device())
        if func in (Tensor.tolist, Tensor.numpy) and isinstance(args[0], _Counted):
            return func(args[0].cpu())
        if func is Tensor.__getitem__ and isinstance(args[0], _Counted):
            parts = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, list) for part in parts):
                return args[0][tuple(torch.tensor(p).to(device()) if isinstance(p, list) else p for p in parts)]
        return func(*args, **kwargs)


@contextmanager
def counting() -> Iterator[Count]:
    """Counts the waits for the device, and its kernels, while the context is active."""
    count = Count()
    _counts.append(count)
    try:
        with _Functions(), _Dispatch():
            yield count
    finally:
        _counts.remove(count)


def moved(module: nn.Module) -> nn.Module:
    """Moves a module to the device, in place."""
    with counting():
        for part in module.modules():
            for name, weight in part._parameters.items():
                if weight is not None:
                    part._parameters[name] = nn.Parameter(on_device(weight.detach()), requires_grad=False)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = on_device(buffer)
    return module


def on_device(values: Tensor) -> Tensor:
    """Returns a tensor on the device."""
    device()
    return _Counted(values)


def on_host(values: Tensor) -> Tensor:
    """Returns the values of a tensor of the device, without counting."""
    return _plain(values)
