"""The patch grid as points in the plane."""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor


@lru_cache
def evenness(rows: int, columns: int) -> Float[Tensor, " patch"]:
    """Scores in (0, 1] whose top-k is spread evenly over the grid for every k.

    Cells are ranked greedily: the next one is the cell that most reduces the sum, over all cells, of the squared
    distance to the nearest ranked cell; ties go to the lower index.
    """
    cells = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).double()
    distance = torch.cdist(cells, cells, compute_mode="donot_use_mm_for_euclid_dist").square().round()
    nearest = torch.full((len(cells),), float(rows**2 + columns**2), dtype=torch.double)
    scores = torch.zeros(len(cells))
    for rank in range(len(cells)):
        cost = torch.minimum(nearest, distance).sum(1).masked_fill(scores > 0, torch.inf)
        best = int(cost.argmin())
        scores[best] = 1 - rank / len(cells)
        nearest = torch.minimum(nearest, distance[best])
    return scores
