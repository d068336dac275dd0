"""Copies between host and device that make neither wait for the other longer than necessary."""

from collections.abc import Sequence

import torch
from torch import Tensor


def on_host(*values: Tensor) -> list[Tensor]:
    """Returns values on the CPU, bit by bit, all copied at once, so that the host waits only once.

    Args:
        values: Tensors of any shape on any device; values on the CPU stay as they are.
    """
    away = [value for value in values if value.device.type != "cpu"]
    if not away:
        return list(values)
    device = away[0].device
    away.sort(key=Tensor.element_size, reverse=True)  # so that each part of the bytes starts where its type may
    columns = [value.detach().flatten()[:, None] for value in away]  # whose last axis has no gaps, as `view` expects
    parts = [column.view(torch.uint8).flatten().to(device) for column in columns]
    copies = torch.cat(parts).cpu().split([len(part) for part in parts])
    found = {id(value): part.view(value.dtype).reshape(value.shape) for value, part in zip(away, copies, strict=True)}
    return [found.get(id(value), value) for value in values]


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
