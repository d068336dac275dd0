"""Choosing by rank, reproducibly."""

from jaxtyping import Float, Int
from torch import Tensor


def top_k(scores: Float[Tensor, "batch patch"], keep: int) -> Int[Tensor, "batch kept"]:
    """Indices of the `keep` highest scores in ascending order; equal scores go to the lower index.

    `torch.topk` promises no order among equal scores, which half precision produces often.
    """
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return order[:, :keep].sort(-1).values
