"""Normalisations of scores per row, over the entries that are `real`."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def softmax(scores: Float[Tensor, "batch patch"], real: Bool[Tensor, "batch patch"]) -> Float[Tensor, "batch patch"]:
    """Returns the softmax of the scores."""
    return scores.masked_fill(~real, -torch.inf).softmax(-1)


def min_max(
    scores: Float[Tensor, "batch patch"],
    real: Bool[Tensor, "batch patch"],
    lift: float = 0.0,
    widened: float = 0.0,
    least: float = 0.0,
) -> Float[Tensor, "batch patch"]:
    """Returns the scores mapped to 0..1.

    Args:
        scores: The scores.
        real: Mask of the entries that count.
        lift: Term added to the scores before the division by the range, so that the least is above 0.
        widened: Term added to the range.
        least: Smallest range that is divided by.
    """
    low = scores.masked_fill(~real, torch.inf).amin(-1, keepdim=True)
    high = scores.masked_fill(~real, -torch.inf).amax(-1, keepdim=True)
    smallest = max(lift, least) or torch.finfo(scores.dtype).tiny
    return (scores - low + lift) / ((high - low).clamp(min=smallest) + widened)


def unit_length(
    scores: Float[Tensor, "batch patch"], real: Bool[Tensor, "batch patch"]
) -> Float[Tensor, "batch patch"]:
    """Returns the scores divided by their Euclidean length."""
    return F.normalize(torch.where(real, scores, 0), dim=-1)


def rank_share(scores: Float[Tensor, "batch patch"], real: Bool[Tensor, "batch patch"]) -> Float[Tensor, "batch patch"]:
    """Returns the share of patches with a lower score; equal scores share their mean rank."""
    ordered = scores.masked_fill(~real, torch.inf).sort(-1).values.contiguous()
    below, upto = (torch.searchsorted(ordered, scores.contiguous(), right=right) for right in (False, True))
    return ((below + upto) / 2 / real.sum(-1, keepdim=True)).to(scores.dtype)
