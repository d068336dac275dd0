"""Redundancy of tokens in a vision tower, and the tokens that they are merged into, by logits of attention."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.arrangement import Grid
from foveate.core.transfer import on_device
from foveate.functional.mixing import mean_rows, unit_rows
from foveate.functional.regions import rank_within, squares

_SHARE, _QUANTILE = 0.65, 0.998  # of the authors of FiCoCo
_SIDE = 2  # of the windows, in patches


def mean_logits(
    query: Float[Tensor, "batch head token dim"], key: Float[Tensor, "batch head token dim"], scaling: float
) -> Float[Tensor, "batch token token"]:
    """Returns the logits of attention, averaged over heads, in float32 or float64."""
    exact = torch.promote_types(query.dtype, torch.float32)
    return (query.to(exact) @ key.to(exact).mT).mean(1) * scaling


def worth(logits: Float[Tensor, "batch token token"]) -> Float[Tensor, "batch patch"]:
    """Returns what each token but the first is worth: what the first attends to, less what attends to all others.

    Both logits are normalised to length 1. The first token is [CLS]; low values are redundant.
    """
    first, others = logits[:, 0, 1:], logits[:, 1:, 1:].mean(2)
    first, others = (part / part.norm(dim=1, keepdim=True) for part in (first, others))
    return (1 - _SHARE) * first - _SHARE * others


def least_of_windows(values: Float[Tensor, "batch patch"], grid: Grid) -> Bool[Tensor, "batch patch"]:
    """Returns the mask of the least value of each window, of equal ones the first; incomplete windows have none."""
    window = squares(grid, _SIDE)
    complete = window.bincount()[window] == _SIDE**2
    complete, window = on_device(complete, values.device), on_device(window, values.device)
    return complete & (rank_within(-values, window.expand_as(values)) == 0)


def penalised(values: Float[Tensor, "batch patch"], marks: Bool[Tensor, "batch patch"]) -> Float[Tensor, "batch patch"]:
    """Returns the values, lowered where they are marked: positive ones halved, others doubled."""
    return torch.where(marks, torch.where(values > 0, values / 2, values * 2), values)


def above_quantile(logits: Float[Tensor, "batch row token"]) -> Bool[Tensor, "batch row token"]:
    """Returns the mask of the logits above 0.998 of their row, or of the greatest if none is above."""
    above = logits > torch.quantile(logits, _QUANTILE, dim=2, keepdim=True)
    greatest = torch.zeros_like(above).scatter_(2, logits.argmax(2, keepdim=True), True)
    return torch.where(above.any(2, keepdim=True), above, greatest)


def added(
    remaining: Int[Tensor, "batch left"],
    merged: Int[Tensor, "batch merged"],
    weights: Float[Tensor, "batch merged left"],
    tokens: int,
) -> Float[Tensor, "batch left token"]:
    """Returns the matrix that adds weighted tokens to the remaining ones and divides by one plus the weights.

    Args:
        remaining: The tokens that remain.
        merged: The tokens that are added to them.
        weights: Weight of each merged token in each remaining one.
        tokens: Number of all tokens.
    """
    rows = unit_rows(remaining, tokens).to(weights)
    rows.scatter_add_(2, merged[:, None].expand(-1, remaining.shape[1], -1), weights.mT)
    return mean_rows(rows)
