"""Scores of different kinds on one scale, per row; places that hold no patch count for nothing."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def softmax(scores: Float[Tensor, "batch patch"], there: Bool[Tensor, "batch patch"]) -> Float[Tensor, "batch patch"]:
    """Positive, with a sum of 1."""
    return scores.masked_fill(~there, -torch.inf).softmax(-1)


def min_max(
    scores: Float[Tensor, "batch patch"], there: Bool[Tensor, "batch patch"], lift: float = 0.0
) -> Float[Tensor, "batch patch"]:
    """From 0 to 1; with `lift` added to what is divided by the range, so that the least is not quite 0."""
    low = scores.masked_fill(~there, torch.inf).amin(-1, keepdim=True)
    high = scores.masked_fill(~there, -torch.inf).amax(-1, keepdim=True)
    return (scores - low + lift) / (high - low).clamp(min=lift or torch.finfo(scores.dtype).tiny)


def rank_share(
    scores: Float[Tensor, "batch patch"], there: Bool[Tensor, "batch patch"]
) -> Float[Tensor, "batch patch"]:
    """The share of patches with a lower score; equal ones share their mean rank."""
    ordered = scores.masked_fill(~there, torch.inf).sort(-1).values.contiguous()
    below, upto = (torch.searchsorted(ordered, scores.contiguous(), right=right) for right in (False, True))
    return ((below + upto) / 2 / there.sum(-1, keepdim=True)).to(scores.dtype)
