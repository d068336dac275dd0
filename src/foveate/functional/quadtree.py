"""Nodes of quadtrees over the frames of a video, and groups of nodes of neighbouring frames.

Source: arXiv 2507.07990 (STTM).
"""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.arrangement import Grid


@cache
def _sides(length: int) -> tuple[int, ...]:
    """Returns the lengths of the levels, from the patches to the last of at most two cells."""
    return (length, *_sides(-(-length // 2))) if length > 2 else (length,)


def _halved(length: int) -> Float[Tensor, "cell half"]:
    """Returns the matrix of means of neighbouring pairs; an odd number leaves the first alone."""
    cell = (torch.arange(length) + length % 2) // 2
    rows = F.one_hot(cell).T.double().contiguous()
    return rows / rows.sum(1, keepdim=True)


@cache
def _levels(rows: int, columns: int) -> tuple[Float[Tensor, "cell below"], ...]:
    """Returns the matrices from each level to the next: from the patches to the roots, the level below the last."""
    depth = max(len(_sides(rows)), len(_sides(columns))) - 2
    found = []
    for _ in range(depth):
        found.append(torch.kron(_halved(rows), _halved(columns)))
        rows, columns = -(-rows // 2), -(-columns // 2)
    return tuple(found)


def nodes(frame: Float[Tensor, "patch dim"], grid: Grid, threshold: float, as_published: bool) -> Int[Tensor, " patch"]:
    """Returns for each patch the first patch of its node, and so the nodes of a frame.

    From the roots on, a cell is a node if its cosine to all cells of the level below is at least the threshold;
    otherwise those are visited. A cell is the mean of at most 2 x 2 cells of the level below.

    Args:
        frame: Features of the patches.
        grid: Grid of the patches.
        threshold: The threshold.
        as_published: Whether a cell with fewer than four cells below is also compared with the frame's first cell
            of the level below, as in the authors' code.
    """
    levels = [matrix.to(frame.device) for matrix in _levels(grid.rows, grid.columns)]
    values = [frame]
    for matrix in levels:
        values.append(matrix @ values[-1])
    cell = [torch.arange(len(frame), device=frame.device)]  # of each patch, at each level
    for matrix in levels:
        cell.append(matrix.argmax(0)[cell[-1]])
    open_ = torch.ones(len(frame), dtype=torch.bool, device=frame.device)
    found = cell[0].clone()
    for level in range(len(levels), 0, -1):
        stops = _alike(values[level], values[level - 1], levels[level - 1] > 0, threshold, as_published)
        ends = open_ & stops[cell[level]]
        first = torch.full((len(stops),), len(frame), device=frame.device).scatter_reduce(
            0, cell[level], cell[0], "amin"
        )
        found = torch.where(ends, first[cell[level]], found)
        open_ &= ~ends
    return found


def _alike(
    cells: Float[Tensor, "cell dim"],
    below: Float[Tensor, "below dim"],
    within: Bool[Tensor, "cell below"],
    threshold: float,
    as_published: bool,
) -> Bool[Tensor, " cell"]:
    """Returns which cells are similar to all cells that they consist of."""
    similar = F.normalize(cells, dim=1) @ F.normalize(below, dim=1).T >= threshold
    compared = within.clone()
    if as_published:
        compared[:, 0] |= within.sum(1) < 4
    return (similar | ~compared).all(1)


def cell_weights(owner: Int[Tensor, " patch"], grid: Grid) -> Float[Tensor, " patch"]:
    """Returns the weight of each patch in its node, which is a mean of means.

    Args:
        owner: The first patch of the node of each patch.
        grid: Grid of the patches.
    """
    weight = torch.ones(len(owner), dtype=torch.double, device=owner.device)
    size = owner.bincount(minlength=len(owner))[owner]
    cell = torch.arange(len(owner), device=owner.device)
    for matrix in _levels(grid.rows, grid.columns):
        below, matrix = cell, matrix.to(owner.device)
        cell = matrix.argmax(0)[below]
        inside = size >= cell.bincount()[cell]  # the node is this cell or a larger one
        weight = torch.where(inside, weight * matrix[cell, below], weight)
    return weight


def grouped(edges: Int[Tensor, "edge 2"], count: int, as_published: bool) -> Int[Tensor, " node"]:
    """Returns for each node the first node of its group, the nodes that edges connect.

    Args:
        edges: Pairs of nodes.
        count: Number of nodes.
        as_published: Whether to stop as in the authors' code, as soon as the first node of each node's first node is
            that node, which may leave a group in several parts.
    """
    first = torch.arange(count, device=edges.device)
    while len(edges):
        before = first
        first = first.scatter_reduce(0, edges.T.flatten(), first[edges].amin(1).repeat(2), "amin")
        first = first[first]
        if torch.equal(first, first[first] if as_published else before):
            break
    return first


def contained(owners: Sequence[Int[Tensor, " patch"]]) -> Int[Tensor, "edge 2"]:
    """Returns the pairs of nodes of neighbouring frames that contain one another.

    Args:
        owners: The node of each patch in each frame. Cells of quadtrees over one grid that share a patch contain one
            another.
    """
    pairs = [torch.stack([one, other], 1) for one, other in pairwise(owners)]
    return torch.cat(pairs).unique(dim=0) if pairs else torch.empty(0, 2, dtype=torch.long, device=owners[0].device)
