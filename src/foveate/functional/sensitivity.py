"""Sensitivity of a function to small changes of its input, by finite differences."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from foveate.core.transfer import on_device


def random_directions(count: int, dim: int, seed: int) -> Float[Tensor, "direction dim"]:
    """Returns random vectors of length 1, float64, which depend on the seed alone."""
    normal = torch.from_numpy(np.random.default_rng(seed).standard_normal((count, dim)))
    return normal / normal.norm(dim=1, keepdim=True)


def sensitivity(
    function: Callable[[Tensor], Tensor],
    features: Float[Tensor, "batch patch dim"],
    directions: Float[Tensor, "direction dim"],
    step: float,
) -> Float[Tensor, "batch patch"]:
    """Returns the mean length of the central difference quotients of a function along the directions.

    Args:
        function: Maps features (batch, patch, dim) to vectors, patch by patch.
        features: Where the quotients are taken.
        directions: Vectors of length 1.
        step: Half of the distance of the two points.
    """
    total = torch.zeros_like(features[..., 0])
    for direction in on_device(directions.to(features.dtype), features.device):
        change = function(features + step * direction) - function(features - step * direction)
        total += change.norm(dim=-1)
    return total / (2 * step * len(directions))
