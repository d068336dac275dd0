"""Greedy choices by what a patch adds to those already chosen.

All give the chosen in the order of choice. Equal gains go to the lower index, nothing is chosen twice, and rows with
fewer `free` patches than the others end in `PADDING`. Similarities are best given in float64: gains differ by so little
that float32 lets rounding, and with it the size of the batch, decide.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.types import PADDING

_SPENT = 1e-10  # share of a patch's own variance below which what is left of it is rounding


def max_min(
    similarity: Float[Tensor, "batch patch patch"], free: Bool[Tensor, "batch patch"], keep: int
) -> Int[Tensor, "batch kept"]:
    """First the patch whose nearest other is furthest; then the one furthest from its nearest chosen one."""
    distance = 1 - similarity
    itself = torch.eye(distance.shape[1], dtype=torch.bool, device=distance.device)
    nearest_other = distance.masked_fill(itself | ~free[:, None], torch.inf).amin(-1)
    nearest_chosen = torch.full_like(nearest_other, torch.inf)

    def take(pick: Int[Tensor, " batch"]) -> Float[Tensor, "batch patch"]:
        return torch.minimum(nearest_chosen, _row(distance, pick), out=nearest_chosen)

    return _greedily(nearest_other, take, free, keep)


def determinantal(
    kernel: Float[Tensor, "batch patch patch"], free: Bool[Tensor, "batch patch"], keep: int
) -> Int[Tensor, "batch kept"]:
    """Always the patch that makes the determinant of the chosen part of a positive semidefinite kernel greatest.

    The gain is the diagonal of the Schur complement. Once the chosen span everything (there are more to choose than the
    kernel has rank), the others follow by their own entry on the diagonal.
    """
    left = kernel.double().clone()
    own = left.diagonal(dim1=1, dim2=2).clone()
    spent = own - own.amax(1, keepdim=True) - 1  # negative, so after all that still add something

    def gain() -> Float[Tensor, "batch patch"]:
        rest = left.diagonal(dim1=1, dim2=2)
        return torch.where(rest > _SPENT * own, rest, spent)

    def take(pick: Int[Tensor, " batch"]) -> Float[Tensor, "batch patch"]:
        row = _row(left, pick)
        pivot = row.gather(1, pick[:, None])
        row = torch.where(pivot > _SPENT * own.gather(1, pick[:, None]), row / pivot.abs().sqrt(), 0)
        left.sub_(row[:, :, None] * row[:, None])
        return gain()

    return _greedily(gain(), take, free, keep)


def coverage(
    cover: Float[Tensor, "batch row patch"],
    weight: Float[Tensor, "batch patch"],
    bonus: Float[Tensor, "batch patch"],
    free: Bool[Tensor, "batch patch"],
    keep: int,
) -> Int[Tensor, "batch kept"]:
    """Always the patch that best raises the sum, over rows, of the greatest entry among the chosen (0 at first).

    Args:
        cover: How well each patch covers each row; negative entries cover nothing. Rows of zeros do not count.
        weight: Multiplies a patch's gain.
        bonus: Is added to it.
        free: The patches to choose from.
        keep: How many.
    """
    covered = torch.zeros_like(cover[:, :, 0])
    images = torch.arange(len(cover), device=cover.device)

    def gain() -> Float[Tensor, "batch patch"]:
        return (cover - covered[..., None]).clamp(min=0).sum(1) * weight + bonus

    def take(pick: Int[Tensor, " batch"]) -> Float[Tensor, "batch patch"]:
        torch.maximum(covered, cover[images, :, pick], out=covered)
        return gain()

    return _greedily(gain(), take, free, keep)


def thinned(
    similarity: Float[Tensor, "batch patch patch"], queue: Int[Tensor, "batch place"], keep: int, step: int = 8
) -> Int[Tensor, "batch left"]:
    """Shortens lists of patches, round by round, to `keep`: at least 1.

    In a round, those at even places of the list are compared with those at odd places. The (at most) `step` even ones
    with the most alike odd one leave; the other even ones, by falling similarity, and behind them the odd ones are the
    new list. So the order of the list matters.

    Args:
        similarity: Of all pairs.
        queue: Patches, `PADDING` last; rows that are short enough keep their patches.
        keep: How many remain.
        step: How many leave in a round.
    """
    images = torch.arange(len(queue), device=queue.device)[:, None, None]
    while True:
        length = (queue != PADDING).sum(1)
        leaving = torch.minimum((length - keep).clamp(0, step), (length + 1) // 2)[:, None]
        if not leaving.any():
            return queue[:, : int(length.max())]
        even, odd = queue[:, ::2], queue[:, 1::2]
        alike = similarity[images, even.clamp(min=0)[:, :, None], odd.clamp(min=0)[:, None]]
        closest = alike.masked_fill((odd == PADDING)[:, None], -torch.inf).amax(-1)
        closest = closest.masked_fill(even == PADDING, -torch.inf)
        even = even.gather(1, closest.argsort(dim=-1, descending=True, stable=True))
        even = even.masked_fill(torch.arange(even.shape[1], device=even.device) < leaving, PADDING)
        queue = torch.cat([even, odd], 1)
        queue = queue.gather(1, (queue == PADDING).long().argsort(dim=-1, stable=True))


def _greedily(
    gain: Float[Tensor, "batch patch"],
    take: Callable[[Int[Tensor, " batch"]], Float[Tensor, "batch patch"]],
    free: Bool[Tensor, "batch patch"],
    keep: int,
) -> Int[Tensor, "batch kept"]:
    """Picks the greatest gain, asks `take` for the gains after that pick, and so on."""
    free = free.clone()
    chosen = torch.full((len(free), min(keep, int(free.sum(1).max()))), PADDING, device=free.device)
    for step in range(chosen.shape[1]):
        pick = gain.masked_fill(~free, -torch.inf).argmax(1)
        chosen[:, step] = torch.where(free.any(1), pick, PADDING)
        free.scatter_(1, pick[:, None], False)
        gain = take(pick)
    return chosen


def _row(matrix: Float[Tensor, "batch patch patch"], pick: Int[Tensor, " batch"]) -> Float[Tensor, "batch patch"]:
    return matrix[torch.arange(len(matrix), device=matrix.device), pick]
