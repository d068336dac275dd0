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
    return chosen[:, : max(1, longest((chosen != PADDING).sum(1), chosen.shape[1]))]


def longest(counts: Int[Tensor, "*batch"], most: int) -> int:
    """Returns the greatest count, at most `most`.

    It is `most` on an accelerator, which nothing waits for here, and while a program is exported, as shapes are fixed.

    Args:
        counts: Number of entries of each row.
        most: The greatest count that is possible; without padding every row has as many.
    """
    return most if open_ended(counts) else min(most, int(counts.max()))


def open_ended(values: Tensor) -> bool:
    """Returns whether the host does without these values: on an accelerator, and while a program is exported."""
    return values.device.type != "cpu" or torch.compiler.is_exporting()


def top_k(scores: Float[Tensor, "batch patch"], keep: int) -> Int[Tensor, "batch kept"]:
    """Returns the patches of `ranked` in raster order."""
    return in_raster_order(ranked(scores, keep), scores.shape[1])


def in_raster_order(chosen: Int[Tensor, "batch kept"], patches: int) -> Int[Tensor, "batch kept"]:
    """Returns the patches in ascending order, `PADDING` last."""
    ascending = chosen.masked_fill(chosen == PADDING, patches).sort(-1).values
    return ascending.masked_fill(ascending == patches, PADDING)


def listed(stays: Bool[Tensor, "batch patch"], most: int | None = None) -> Int[Tensor, "batch kept"]:
    """Returns the patches where `stays` is true, ascending; shorter rows end in `PADDING`.

    Args:
        stays: Mask of the patches.
        most: The greatest number of patches of a row; None if it is unknown.
    """
    return top_k(torch.where(stays, 0.0, -torch.inf), stays.shape[1] if most is None else most)


def marked(chosen: Int[Tensor, "batch kept"], patches: int) -> Bool[Tensor, "batch patch"]:
    """Returns the mask of the chosen patches, the inverse of `listed`."""
    slots = chosen.masked_fill(chosen < 0, patches)
    stays = torch.zeros(chosen.shape[0], patches + 1, dtype=torch.bool, device=chosen.device)
    return stays.scatter_(1, slots, True)[:, :patches]
