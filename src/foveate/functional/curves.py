"""Values along an axis."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor


def area(values: Float[Tensor, "batch share"], shares: Sequence[float]) -> Float[Tensor, " batch"]:
    """Area under each curve by the trapezoidal rule, divided by the span of the shares, so that it is a mean value.

    Raises:
        ValueError: The shares do not rise.
    """
    if len(shares) < 2 or any(later <= earlier for earlier, later in pairwise(shares)):
        raise ValueError(f"shares={list(shares)}: an area needs at least two shares, each greater than the one before")
    axis = torch.tensor(shares, dtype=values.dtype, device=values.device)
    return torch.trapezoid(values, axis, dim=1) / (axis[-1] - axis[0])
