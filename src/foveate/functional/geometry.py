"""Geometry of patch grids."""

import math
from functools import cache, lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.core.arrangement import Views


@lru_cache
def evenness(rows: int, columns: int) -> Float[Tensor, " patch"]:
    """Returns scores in (0, 1] whose top k are spread evenly over the grid for every k.

    Cells are ranked greedily: the next one is the cell that most reduces the sum, over all cells, of the squared
    distance to the nearest ranked cell; ties go to the lower index.
    """
    cells = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).double()
    distance = torch.cdist(cells, cells, compute_mode="donot_use_mm_for_euclid_dist").square().round()
    nearest = torch.full((len(cells),), float(rows**2 + columns**2), dtype=torch.double)
    gain = (nearest - distance).sum(1)  # whole numbers, so that updates are exact
    scores = torch.zeros(len(cells))
    for rank in range(len(cells)):
        best = int(gain.argmax())
        scores[best] = 1 - rank / len(cells)
        gain[best] = -torch.inf
        nearer = (distance[best] < nearest).nonzero()[:, 0]
        before, after, far = nearest[nearer, None], distance[nearer, best, None], distance[nearer]
        gain -= ((before - far).clamp(min=0) - (after - far).clamp(min=0)).sum(0)
        nearest[nearer] = after[:, 0]
    return scores


def even(views: Views) -> Float[Tensor, " patch"]:
    """Returns `evenness` of every view in order; every prefix covers all views in proportion to their patches."""
    return torch.cat([evenness(grid.rows, grid.columns) for grid in views])


@cache
def nearest_grid(keep: int, rows: int, columns: int) -> tuple[int, int]:
    """Returns the grid of at most `rows` x `columns` cells with about `keep` cells, stretched at most twofold.

    Ties are decided by the most similar aspect ratio, then the squarest, the smallest, the grid with more rows.
    """

    def cost(grid: tuple[int, int]) -> tuple[int | float, ...]:
        shape = math.log(grid[0] / grid[1])
        stretch = round(abs(shape - math.log(rows / columns)), 9)
        cells = grid[0] * grid[1]
        return stretch > math.log(2) + 1e-9, abs(cells - keep), stretch, round(abs(shape), 9), cells, -grid[0]

    return min(((r, c) for r in range(1, rows + 1) for c in range(1, columns + 1)), key=cost)


def pooling_matrix(rows: int, columns: int, pooled_rows: int, pooled_columns: int) -> Float[Tensor, "token patch"]:
    """Returns the matrix of average pooling, which equals `adaptive_avg_pool2d` on patches in raster order."""
    return torch.kron(_pooling(rows, pooled_rows), _pooling(columns, pooled_columns))


def _pooling(length: int, pooled: int) -> Float[Tensor, "pooled cell"]:
    pool, cell = torch.arange(pooled)[:, None], torch.arange(length)
    inside = (cell >= pool * length // pooled) & (cell < -(-(pool + 1) * length // pooled))
    return inside / inside.sum(1, keepdim=True)
