"""Parts of the image, and ranks within them. Tokens that stand at no patch's place count as the first patch's."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.arrangement import Grid, Views
from foveate.core.trace import PADDING
from foveate.functional.ranking import marked


def numbered(
    places: Int[Tensor, "batch patch"], views: Views
) -> tuple[Int[Tensor, "batch patch"], Int[Tensor, "batch patch"]]:
    """In which view each place lies, and its number there."""
    real, starts = places.clamp(min=0), _starts(views).to(places.device)
    view = torch.searchsorted(starts, real, right=True) - 1
    return view, real - starts[view]


def located(
    places: Int[Tensor, "batch patch"], views: Views
) -> tuple[Int[Tensor, "batch patch"], Int[Tensor, "batch patch"], Int[Tensor, "batch patch"]]:
    """In which view, which row and which column each place lies."""
    view, inside = numbered(places, views)
    columns = torch.tensor([grid.columns for grid in views], device=places.device)[view]
    return view, inside // columns, inside % columns


def rectangles(places: Int[Tensor, "batch patch"], views: Views, rows: int, columns: int) -> Int[Tensor, "batch patch"]:
    """The rectangle each place lies in, of `rows` x `columns` as equal as whole patches allow, view after view."""
    view, row, column = located(places, views)
    down, right = torch.tensor([(grid.rows, grid.columns) for grid in views], device=places.device)[view].unbind(-1)
    return (view * rows + row * rows // down) * columns + column * columns // right


def squares(grid: Grid, side: int) -> Int[Tensor, " patch"]:
    """The block each patch lies in, of `side` x `side` patches counted from the upper left.

    Blocks are numbered row by row; those at the right and at the bottom are smaller where `side` does not divide.
    """
    row, column = torch.arange(grid.rows) // side, torch.arange(grid.columns) // side
    return (row[:, None] * -(-grid.columns // side) + column).flatten()


def spread(values: Float[Tensor, "batch block"], block: Int[Tensor, " patch"]) -> Float[Tensor, "batch patch"]:
    """The value of each block, divided evenly among its patches."""
    block = block.to(values.device)
    return (values / block.bincount(minlength=values.shape[1]))[:, block]


def runs(places: Int[Tensor, "batch patch"], views: Views, count: int) -> Int[Tensor, "batch patch"]:
    """The run each place lies in: raster order cut in `count` parts as equal as possible, view after view."""
    view, inside = numbered(places, views)
    patches = torch.tensor([grid.patches for grid in views], device=places.device)
    return view * count + inside * count // patches[view]


def with_neighbours(
    chosen: Bool[Tensor, "batch patch"], places: Int[Tensor, "batch patch"], views: Views
) -> Bool[Tensor, "batch patch"]:
    """The chosen and the places one before, after, above and below them.

    By the number of the place, as HiPrune does: the one after a row's last is the first of the next row, and what
    would leave the view at its top or bottom becomes its first or last place.
    """
    view, inside = numbered(places, views)
    steps = torch.tensor([(0, -1, 1, -grid.columns, grid.columns) for grid in views], device=places.device)[view]
    last = torch.tensor([grid.patches - 1 for grid in views], device=places.device)[view][..., None]
    around = _starts(views).to(places.device)[view][..., None] + (inside[..., None] + steps).clamp(min=0).minimum(last)
    around = around.masked_fill(~(chosen & (places >= 0))[..., None], PADDING).flatten(1)
    near = marked(around, sum(grid.patches for grid in views)).gather(1, places.clamp(min=0))
    return chosen | (near & (places >= 0))


def rank_within(scores: Float[Tensor, "batch patch"], group: Int[Tensor, "batch patch"]) -> Int[Tensor, "batch patch"]:
    """How many patches of its group come before each, by falling score and then by index."""
    by_score = scores.argsort(dim=-1, descending=True, stable=True)
    by_group = group.gather(1, by_score).argsort(dim=-1, stable=True)
    order = by_score.gather(1, by_group)
    groups = group.gather(1, order)
    rank = torch.arange(scores.shape[1], device=scores.device) - torch.searchsorted(groups, groups)
    return torch.empty_like(order).scatter_(1, order, rank)


def group_means(
    values: Float[Tensor, "batch patch"], group: Int[Tensor, "batch patch"], members: Bool[Tensor, "batch patch"]
) -> Float[Tensor, "batch group"]:
    """Mean over the members of each group; 0 without members."""
    numbers = torch.arange(int(group.max()) + 1, device=group.device)[:, None]
    inside = (group[:, None] == numbers) & members[:, None]
    return torch.where(inside, values[:, None], 0).sum(-1) / inside.sum(-1).clamp(min=1)


def proportional(weights: Float[Tensor, "batch group"], total: int) -> Int[Tensor, "batch group"]:
    """Splits a total by non-negative weights: rounded down, then one more for the greatest weights."""
    weights = weights.double() + 1e-300  # all zero: equal parts
    whole = (weights / weights.sum(1, keepdim=True) * total).floor().long()
    rank = weights.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return whole + (rank < total - whole.sum(1, keepdim=True)).long()


def _starts(views: Views) -> Int[Tensor, " view"]:
    """The number of each view's first patch."""
    return torch.tensor([0, *(grid.patches for grid in views[:-1])]).cumsum(0)
