"""Whether what was kept shows what the question needs."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from foveate.core.arrangement import Grid

SHOWN = 1 / 16  # share of a patch that a thing must cover to be seen in it: 4 of 64 pixels in the reference model


def evidence_share(masks: Bool[Tensor, "thing height width"], grid: Grid) -> Float[Tensor, "thing patch"]:
    """Share of each patch that each mask covers; the image is stretched over the grid."""
    if not len(masks):
        return torch.zeros(0, grid.patches)
    return F.adaptive_avg_pool2d(masks.float()[:, None], (grid.rows, grid.columns)).flatten(1)


def evidence_recall(
    stays: Bool[Tensor, "batch patch"], share: Float[Tensor, "batch thing patch"]
) -> Float[Tensor, " batch"]:
    """Share of the patches that show any needed thing which stay; NaN where nothing is known to be needed."""
    shown = (share >= SHOWN).any(1)
    return (shown & stays).sum(1) / shown.sum(1)


def evidence_precision(
    stays: Bool[Tensor, "batch patch"], share: Float[Tensor, "batch thing patch"]
) -> Float[Tensor, " batch"]:
    """Share of the patches that stay which show any needed thing; NaN where none stay or nothing is known."""
    shown = (share >= SHOWN).any(1)
    return torch.where(shown.any(1), (shown & stays).sum(1) / stays.sum(1), torch.nan)


def things_kept(
    stays: Bool[Tensor, "batch patch"], share: Float[Tensor, "batch thing patch"]
) -> Float[Tensor, " batch"]:
    """1 where every needed thing keeps at least one patch that shows it, else 0; NaN where nothing is known."""
    shown = share >= SHOWN
    needed = shown.any(2)
    seen = (shown & stays[:, None]).any(2)
    return torch.where(needed.any(1), (seen | ~needed).all(1).float(), torch.nan)
