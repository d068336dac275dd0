"""Copies between host and device that make neither wait for the other longer than necessary."""

from collections.abc import Sequence

import torch
from torch import Tensor

_WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers as wide as floating-point numbers of some bytes."""


def on_host(*values: Tensor) -> list[Tensor]:
    """Returns values on the CPU, bit by bit, all copied at once, so that the host waits only once.

    Args:
        values: Tensors of any shape on any device; values on the CPU stay as they are.
    """
    away = [value for value in values if value.device.type != "cpu"]
    if not away:
        return list(values)
    device = away[0].device
    joined = torch.cat([_as_whole(value.detach().flatten()).to(device, torch.long) for value in away]).cpu()
    parts = iter(joined.split([value.numel() for value in away]))
    return [
        value if value.device.type == "cpu" else _restored(next(parts), value.dtype).reshape(value.shape)
        for value in values
    ]


def _as_whole(values: Tensor) -> Tensor:
    """Returns the bits of floating-point values as whole numbers; others as they are."""
    return values.view(_WHOLE[values.element_size()]) if values.is_floating_point() else values


def _restored(whole: Tensor, dtype: torch.dtype) -> Tensor:
    if not dtype.is_floating_point:
        return whole.to(dtype)
    return whole.to(_WHOLE[dtype.itemsize]).view(dtype)


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """Returns values on a device; those of the host are copied while both go on."""
    if values.device.type != "cpu" or device.type == "cpu":
        return values.to(device)
    if device.type == "cuda" and torch.cuda.is_available():  # only pinned memory is copied without waiting
        values = values.pin_memory()
    return values.to(device, non_blocking=device.type != "mps")  # which may read the memory after it is freed


def rows_of(values: Tensor, rows: Sequence[int]) -> Tensor:
    """Returns some rows of a tensor, which a list as an index would make the host wait for."""
    return values[on_device(torch.tensor(list(rows), dtype=torch.long), values.device)]
