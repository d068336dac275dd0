"""Coverage of a question's evidence by the kept patches."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from foveate.core.arrangement import Grid

SHOWN = 1 / 16  # share of a patch that a thing must cover to count as shown: 4 of 64 pixels in the reference model


def evidence_share(masks: Bool[Tensor, "thing height width"], grid: Grid) -> Float[Tensor, "thing patch"]:
    """Returns the share of each patch that each mask covers; the image is stretched over the grid."""
    if not len(masks):
        return torch.zeros(0, grid.patches)
    return F.adaptive_avg_pool2d(masks.float()[:, None], (grid.rows, grid.columns)).flatten(1)


def evidence_recall(
    kept: Bool[Tensor, "batch patch"], share: Float[Tensor, "batch thing patch"]
) -> Float[Tensor, " batch"]:
    """Returns the share of the patches with evidence that are kept; NaN where the evidence is unknown."""
    shown = (share >= SHOWN).any(1)
    return (shown & kept).sum(1) / shown.sum(1)


def evidence_precision(
    kept: Bool[Tensor, "batch patch"], share: Float[Tensor, "batch thing patch"]
) -> Float[Tensor, " batch"]:
    """Returns the share of the kept patches that show evidence; NaN where none is kept or the evidence is unknown."""
    shown = (share >= SHOWN).any(1)
    return torch.where(shown.any(1), (shown & kept).sum(1) / kept.sum(1), torch.nan)


def things_kept(
    kept: Bool[Tensor, "batch patch"], share: Float[Tensor, "batch thing patch"]
) -> Float[Tensor, " batch"]:
    """Returns 1 where each needed thing is shown by a kept patch, else 0; NaN where the evidence is unknown."""
    shown = share >= SHOWN
    needed = shown.any(2)
    covered = (shown & kept[:, None]).any(2)
    return torch.where(needed.any(1), (covered | ~needed).all(1).float(), torch.nan)
