"""Regions of the image, and ranks within them. Negative origins (`EXTRA`, `PADDING`) count as the first patch."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.arrangement import Grid, Views
from foveate.core.trace import PADDING
from foveate.core.transfer import on_device
from foveate.functional.ranking import longest, marked


def numbered(
    origins: Int[Tensor, "batch patch"], views: Views
) -> tuple[Int[Tensor, "batch patch"], Int[Tensor, "batch patch"]]:
    """Returns the view of each patch, and its number within the view."""
    real, starts = origins.clamp(min=0), on_device(_starts(views), origins.device)
    view = torch.searchsorted(starts, real, right=True) - 1
    return view, real - starts[view]


def located(
    origins: Int[Tensor, "batch patch"], views: Views
) -> tuple[Int[Tensor, "batch patch"], Int[Tensor, "batch patch"], Int[Tensor, "batch patch"]]:
    """Returns the view, the row and the column of each patch."""
    view, inside = numbered(origins, views)
    columns = _of_views([grid.columns for grid in views], view)
    return view, inside // columns, inside % columns


def rectangles(
    origins: Int[Tensor, "batch patch"], views: Views, rows: int, columns: int
) -> Int[Tensor, "batch patch"]:
    """Returns the rectangle of each patch, of `rows` x `columns` per view, as equal as whole patches allow."""
    view, row, column = located(origins, views)
    down, right = _of_views([(grid.rows, grid.columns) for grid in views], view).unbind(-1)
    return (view * rows + row * rows // down) * columns + column * columns // right


def squares(grid: Grid, side: int) -> Int[Tensor, " patch"]:
    """Returns the block of each patch, of `side` x `side` patches counted from the upper left.

    Blocks are numbered row by row; those at the right and bottom are smaller if `side` does not divide the grid.
    """
    row, column = torch.arange(grid.rows) // side, torch.arange(grid.columns) // side
    return (row[:, None] * -(-grid.columns // side) + column).flatten()


def spread(values: Float[Tensor, "batch block"], block: Int[Tensor, " patch"]) -> Float[Tensor, "batch patch"]:
    """Returns the value of each block, divided evenly among its patches."""
    block = on_device(block, values.device)
    return (values / block.bincount(minlength=values.shape[1]))[:, block]


def runs(origins: Int[Tensor, "batch patch"], views: Views, count: int) -> Int[Tensor, "batch patch"]:
    """Returns the run of each patch: raster order cut into `count` parts per view, as equal as possible."""
    view, inside = numbered(origins, views)
    return view * count + inside * count // _of_views([grid.patches for grid in views], view)


def with_neighbours(
    chosen: Bool[Tensor, "batch patch"], origins: Int[Tensor, "batch patch"], views: Views
) -> Bool[Tensor, "batch patch"]:
    """Returns the chosen patches and those before, after, above and below them.

    Neighbours are found by patch number, as in HiPrune: the patch after the last of a row is the first of the next row,
    and a neighbour beyond the top or bottom of the view is its first or last patch.
    """
    view, inside = numbered(origins, views)
    steps = _of_views([(0, -1, 1, -grid.columns, grid.columns) for grid in views], view)
    last = _of_views([grid.patches - 1 for grid in views], view)[..., None]
    around = (origins.clamp(min=0) - inside)[..., None] + (inside[..., None] + steps).clamp(min=0).minimum(last)
    around = around.masked_fill(~(chosen & (origins >= 0))[..., None], PADDING).flatten(1)
    near = marked(around, sum(grid.patches for grid in views)).gather(1, origins.clamp(min=0))
    return chosen | (near & (origins >= 0))


def rank_within(scores: Float[Tensor, "batch patch"], group: Int[Tensor, "batch patch"]) -> Int[Tensor, "batch patch"]:
    """Returns how many patches of its group come before each patch, by falling score and then by index."""
    by_score = scores.argsort(dim=-1, descending=True, stable=True)
    by_group = group.gather(1, by_score).argsort(dim=-1, stable=True)
    order = by_score.gather(1, by_group)
    groups = group.gather(1, order)
    rank = torch.arange(scores.shape[1], device=scores.device) - torch.searchsorted(groups, groups)
    return torch.empty_like(order).scatter_(1, order, rank)


def by_group(
    group: Int[Tensor, "batch patch"], place: Int[Tensor, "batch patch"], stays: Bool[Tensor, "batch patch"]
) -> Float[Tensor, "batch patch"]:
    """Returns scores that fall group by group, and by place within a group; -inf where `stays` is false."""
    return -(group * group.shape[1] + place).double().masked_fill(~stays, torch.inf)


def group_means(
    values: Float[Tensor, "batch patch"],
    group: Int[Tensor, "batch patch"],
    members: Bool[Tensor, "batch patch"],
    groups: int,
) -> Float[Tensor, "batch group"]:
    """Returns the mean over the members of each group up to the last that any row has; 0 without members.

    Args:
        values: One value per patch.
        group: Number of the group of each patch.
        members: Mask of the patches that count.
        groups: Number of all groups.
    """
    numbers = torch.arange(longest(group + 1, groups), device=group.device)[:, None]
    inside = (group[:, None] == numbers) & members[:, None]
    return torch.where(inside, values[:, None], 0).sum(-1) / inside.sum(-1).clamp(min=1)


def proportional(weights: Float[Tensor, "batch group"], total: int) -> Int[Tensor, "batch group"]:
    """Splits a total in proportion to non-negative weights: rounded down, then one more for the greatest weights."""
    weights = weights.double() + 1e-300  # all zero: equal parts
    whole = (weights / weights.sum(1, keepdim=True) * total).floor().long()
    rank = weights.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return whole + (rank < total - whole.sum(1, keepdim=True)).long()


def _of_views(values: Sequence[int] | Sequence[tuple[int, ...]], view: Int[Tensor, "batch patch"]) -> Tensor:
    """Returns for each patch the values of its view."""
    return on_device(torch.tensor(values), view.device)[view]


def _starts(views: Views) -> Int[Tensor, " view"]:
    """Returns the number of each view's first patch."""
    return torch.tensor([0, *(grid.patches for grid in views[:-1])]).cumsum(0)
