"""Padded sequences, and removal of tokens from them."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from foveate.core.transfer import on_device


def left_padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns left-padded ids (row, token) and the mask of the real ones."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows], dtype=torch.long)
    real = torch.arange(longest) >= torch.tensor([longest - len(row) for row in rows])[:, None]
    return on_device(ids, device), on_device(real, device)


def repeat_left_padded(
    repeats: Int[Tensor, "batch token"],
) -> tuple[Int[Tensor, "batch new"], Bool[Tensor, "batch new"], Int[Tensor, "batch new"]]:
    """Repeats every token `repeats` times, right-aligned in order.

    Returns:
        For each new index the token that it repeats (0 for padding), the mask of real tokens, and the number of the
        repetition.
    """
    batch, length = repeats.shape
    flat = repeats.flatten()
    source = torch.repeat_interleave(torch.arange(len(flat), device=flat.device), flat)
    row = source // length
    totals = repeats.sum(1)
    longest = int(totals.max())
    number = torch.arange(len(source), device=flat.device)
    column = number - (totals.cumsum(0) - totals)[row] + (longest - totals)[row]
    index, nth = torch.zeros(2, batch, longest, dtype=torch.long, device=flat.device)
    real = torch.zeros(batch, longest, dtype=torch.bool, device=flat.device)
    index[row, column] = source % length
    nth[row, column] = number - (flat.cumsum(0) - flat)[source]
    real[row, column] = True
    return index, real, nth


def runs_of(marked: Bool[Tensor, "batch token"]) -> list[tuple[int, int, int]]:
    """Returns row, first index and the index after the last one of each run of marked tokens, in reading order."""
    edges = torch.nn.functional.pad(marked.int(), (1, 1)).diff(dim=1)
    (row, start), end = (edges == 1).nonzero().unbind(1), (edges == -1).nonzero()[:, 1]
    return list(zip(row.tolist(), start.tolist(), end.tolist(), strict=True))


def positions(mask: Bool[Tensor, "batch token"]) -> Int[Tensor, "batch token"]:
    """Returns the position of each real token, counted from 0 without padding; padding gets 0."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def padded_index(
    mask: Bool[Tensor, "batch token"], longest: int | None = None
) -> tuple[Int[Tensor, "batch marked"], Bool[Tensor, "batch marked"]]:
    """Returns the indices of each row's marked tokens, left-aligned, and the mask of real entries.

    Args:
        mask: Marks tokens.
        longest: The greatest number of marked tokens of a row; None counts them, and waits for the device of the mask.
    """
    counts = mask.sum(1)
    longest = int(counts.max()) if longest is None else longest
    index = mask.long().argsort(dim=1, descending=True, stable=True)[:, :longest]
    return index, torch.arange(index.shape[1], device=mask.device) < counts[:, None]
