"""Nodes of quadtrees over the frames of a video, and groups of nodes of neighbouring frames.

Source: arXiv 2507.07990 (STTM).
"""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.arrangement import Grid
from foveate.core.transfer import on_device


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


def least_cosines(
    frames: Float[Tensor, "frame patch dim"], grid: Grid, as_published: bool
) -> list[Float[Tensor, "frame _"]]:
    """Returns the least cosine of each cell to those cells of the level below that it is compared with, by level.

    A cell is the mean of at most 2 x 2 cells of the level below, and is compared with these. The first level are the
    patches, whose least cosine is infinite.

    Args:
        frames: Features of the patches.
        grid: Grid of the patches.
        as_published: Whether a cell with fewer than four cells below is also compared with the frame's first cell
            of the level below, as in the authors' code.
    """
    found, below = [torch.full_like(frames[..., 0], torch.inf)], frames
    for matrix in _levels(grid.rows, grid.columns):
        compared = matrix > 0
        if as_published:
            compared[:, 0] |= compared.sum(1) < 4
        cells = on_device(matrix, frames.device) @ below
        similar = F.normalize(cells, dim=2) @ F.normalize(below, dim=2).mT
        found.append(similar.masked_fill(~on_device(compared, frames.device), torch.inf).amin(2))
        below = cells
    return found


def nodes(least: Sequence[Float[Tensor, "frame _"]], grid: Grid, threshold: float) -> Int[Tensor, "frame patch"]:
    """Returns for each patch the first patch of its node, and so the nodes of frames.

    From the roots on, a cell is a node if its least cosine is at least the threshold; otherwise the cells of the level
    below that it consists of are visited.

    Args:
        least: The `least_cosines` of the frames, on the CPU.
        grid: Grid of the patches.
        threshold: The threshold.
    """
    cell = [torch.arange(grid.patches)]  # of each patch, at each level
    for matrix in _levels(grid.rows, grid.columns):
        cell.append(matrix.argmax(0)[cell[-1]])
    found = cell[0].expand(len(least[0]), -1)
    open_ = torch.ones_like(found, dtype=torch.bool)
    for level in range(len(least) - 1, 0, -1):
        ends = open_ & (least[level] >= threshold)[:, cell[level]]
        first = torch.full((least[level].shape[1],), grid.patches).scatter_reduce(0, cell[level], cell[0], "amin")
        found = torch.where(ends, first[cell[level]], found)
        open_ &= ~ends
    return found


def cell_weights(owner: Int[Tensor, "frame patch"], grid: Grid) -> Float[Tensor, "frame patch"]:
    """Returns the weight of each patch in its node, which is a mean of means.

    Args:
        owner: The first patch of the node of each patch, on the CPU.
        grid: Grid of the patches.
    """
    weight = torch.ones(owner.shape, dtype=torch.double)
    size = torch.zeros_like(owner).scatter_add_(1, owner, torch.ones_like(owner)).gather(1, owner)
    cell = torch.arange(grid.patches)
    for matrix in _levels(grid.rows, grid.columns):
        below, cell = cell, matrix.argmax(0)[cell]
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
