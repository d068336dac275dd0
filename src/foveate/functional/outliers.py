"""Outliers among values."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def outliers(values: Float[Tensor, "batch patch"], factor: float) -> Int[Tensor, " batch"]:
    """Returns how many values of each row are `outlying`."""
    return outlying(values, factor).sum(1)


def outlying(values: Float[Tensor, "*batch patch"], factor: float) -> Bool[Tensor, "*batch patch"]:
    """Returns which values of each row lie more than `factor` interquartile ranges above the upper quartile.

    Quartiles are interpolated linearly, as in `numpy.percentile`; values of -inf are ignored.
    """
    real = values.double().masked_fill(values == -torch.inf, torch.nan)
    lower, upper = torch.nanquantile(real, torch.tensor([0.25, 0.75]).to(real), dim=-1, keepdim=True)
    return real > upper + factor * (upper - lower)
