"""Reproducible selection by rank."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.trace import PADDING


def ranked(scores: Float[Tensor, "batch patch"], keep: int) -> Int[Tensor, "batch kept"]:
    """Returns the indices of the `keep` highest scores by falling score; of equal scores the lower index comes first.

    `torch.topk` guarantees no order among equal scores, which are common in half precision. A score of -inf is never
    chosen; rows with fewer finite scores end in `PADDING`.
    """
    best = scores.sort(dim=-1, descending=True, stable=True)
    chosen = best.indices.masked_fill(best.values == -torch.inf, PADDING)[:, :keep]
    return chosen[:, : max(1, int((chosen != PADDING).sum(1).max()))]


def top_k(scores: Float[Tensor, "batch patch"], keep: int) -> Int[Tensor, "batch kept"]:
    """Returns the patches of `ranked` in raster order."""
    return in_raster_order(ranked(scores, keep), scores.shape[1])


def in_raster_order(chosen: Int[Tensor, "batch kept"], patches: int) -> Int[Tensor, "batch kept"]:
    """Returns the patches in ascending order, `PADDING` last."""
    ascending = chosen.masked_fill(chosen == PADDING, patches).sort(-1).values
    return ascending.masked_fill(ascending == patches, PADDING)


def listed(stays: Bool[Tensor, "batch patch"]) -> Int[Tensor, "batch kept"]:
    """Returns the patches where `stays` is true, ascending; shorter rows end in `PADDING`."""
    return top_k(torch.where(stays, 0.0, -torch.inf), stays.shape[1])


def marked(chosen: Int[Tensor, "batch kept"], patches: int) -> Bool[Tensor, "batch patch"]:
    """Returns the mask of the chosen patches, the inverse of `listed`."""
    slots = chosen.masked_fill(chosen < 0, patches)
    stays = torch.zeros(len(chosen), patches + 1, dtype=torch.bool, device=chosen.device)
    return stays.scatter_(1, slots, True)[:, :patches]
