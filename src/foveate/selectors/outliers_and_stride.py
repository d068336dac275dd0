"""Outliers, and samples of the rest at a fixed stride."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.trace import Trace
from foveate.core.transfer import on_device
from foveate.core.values import Count, Share
from foveate.functional.outliers import outliers
from foveate.functional.ranking import ranked
from foveate.functional.regions import numbered, rank_within


@dataclass(frozen=True)
class OutliersAndStride(Selector):
    """Selector of the outliers, by falling score, and then of every `stride`-th patch, ascending; at most `keep`.

    With r outliers among N patches the stride is a third of N / r, both rounded down, and at least 1; the authors
    divide by zero if more than a third of all patches are outliers. As in their code, the last patch is never sampled.

    Source: arXiv 2403.15388 (PruMerge+).

    Attributes:
        factor: An outlier lies above Q3 + factor * (Q3 - Q1); there is at least one.
        outliers: Number of best patches that are kept instead of outliers; None means outliers.
        stride: Fixed stride; None means the formula above. VTC-CLS compares with 13 outliers and stride 11, 40 and 6,
            or 95 and 3.
        fixed_for: Number of patches for which `outliers` and `stride` apply; None means any.
        sampled: Share of the budget that is sampled if they do not apply; the best patches fill the rest, so that the
            budget is met on average.
    """

    factor: float = 1.5
    outliers: Count | None = None
    stride: Count | None = None
    fixed_for: Count | None = None
    sampled: Share | None = None

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        real = scores > -torch.inf
        given, stride = self._fixed(keep, trace.patches)
        if given is None:
            best = outliers(scores, self.factor).clamp(min=1)[:, None]
        else:
            best = torch.full_like(scores[:, :1], given, dtype=torch.long)
        stride = real.sum(1, keepdim=True) // best // 3 if stride is None else torch.full_like(best, stride)
        origins = on_device(trace.origins, scores.device)
        view, inside = numbered(origins, trace.views)
        last = on_device(torch.tensor([grid.patches - 1 for grid in trace.views]), origins.device)[view]
        sampled = (origins >= 0) & (inside % stride.clamp(min=1) == 0) & (inside < last)
        rank, number = (
            rank_within(scores, torch.zeros_like(origins)),
            torch.arange(scores.shape[1], device=origins.device),
        )
        priority = torch.where(sampled, -number.double(), -torch.inf)
        priority = torch.where(rank < best, scores.shape[1] - rank, priority)
        return ranked(priority.masked_fill(~real, -torch.inf), scores.shape[1] if self.sampled else keep)

    def expected(self, keep: int, left: int | float, patches: int) -> int | float:
        best, stride = self._fixed(keep, patches)
        if best is None:
            return min(keep, left)
        stride = max(1, patches // best // 3) if stride is None else stride
        sampled = math.ceil((patches - 1) / stride) / patches * max(0, left - best)
        return min(left, best + sampled) if self.sampled else min(keep, left, best + sampled)

    def _fixed(self, keep: int, patches: int) -> tuple[int | None, int | None]:
        """Returns the number of outliers and the stride, each None if it depends on the image."""
        if self.sampled is None or (self.outliers is not None and self.fixed_for in (None, patches)):
            return self.outliers, self.stride
        stride = math.ceil(patches / max(1, self.sampled * keep))
        samples = math.ceil((patches - 1) / stride)
        return max(1, round((keep - samples) / max(1 - samples / patches, 1 / patches))), stride
