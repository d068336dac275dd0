"""Removal of the lowest values while the others hold a share of the sum."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def removable(values: Float[Tensor, "batch patch"], least: Float[Tensor, " batch"]) -> Bool[Tensor, "batch patch"]:
    """Returns the mask of as many of the lowest values as can go while the others still sum to at least `least`.

    Args:
        values: Values, not negative; of equal ones the lower index goes first.
        least: The sum that has to remain; if it is more than that of all values, nothing goes.
    """
    order = values.double().argsort(dim=1, stable=True)
    ascending = values.double().gather(1, order)
    rest = ascending.sum(1, keepdim=True) - ascending.cumsum(1)
    return torch.zeros_like(order, dtype=torch.bool).scatter_(1, order, rest >= least[:, None].double())
