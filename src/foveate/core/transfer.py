"""Copies between host and device that make neither wait for the other longer than necessary."""

from collections.abc import Sequence

import torch
from torch import Tensor


def on_host(*values: Tensor) -> list[Tensor]:
    """Returns whole numbers or truth values on the CPU, all copied at once, so that the host waits only once.

    Args:
        values: Tensors of any shape on any device; values on the CPU stay as they are.
    """
    away = [value for value in values if value.device.type != "cpu"]
    if not away:
        return list(values)
    joined = torch.cat([value.detach().flatten().to(away[0].device, torch.long) for value in away]).cpu()
    parts = iter(joined.split([value.numel() for value in away]))
    return [
        value if value.device.type == "cpu" else next(parts).reshape(value.shape).to(value.dtype) for value in values
    ]


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
