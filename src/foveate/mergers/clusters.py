"""Clusters of the best dropped patches as additional tokens."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.compression import Compression
from foveate.core.contracts import Merger
from foveate.core.trace import PADDING, Trace
from foveate.core.values import Share
from foveate.functional.clustering import density_peaks, limited
from foveate.functional.matching import rows_at
from foveate.functional.mixing import appended, group_rows, left_over, mean_rows, unit_rows
from foveate.functional.ranking import longest, open_ended, ranked


@dataclass(frozen=True)
class Clusters(Merger):
    """Merger that keeps patches unchanged and appends the means of clusters of the best dropped ones.

    Equal densities are not separated by random noise as in the authors' code; see `density_peaks`.

    Source: arXiv 2410.04417v3 (SparseVLM, "token recycling"; clusters by DPC-KNN).

    Attributes:
        share: Share of the dropped patches that are clustered.
        ratio: Number of clusters per clustered patch.
    """

    share: Share = 0.3
    ratio: Share = 0.1

    def merge(
        self,
        features: Float[Tensor, "batch source dim"],
        kept: Int[Tensor, "batch kept"],
        scores: Float[Tensor, "batch patch"],
        trace: Trace,
        budget: int,
    ) -> Compression:
        dropped = left_over(kept, scores)
        if not open_ended(dropped) and not dropped.any():
            return Compression(kept)
        count = _part(self.share, dropped.sum(1))
        groups = _part(self.ratio, count)
        most = _part(self.share, torch.tensor([scores.shape[1]]))
        best = limited(ranked(scores.masked_fill(~dropped, -torch.inf), longest(count, int(most))), count)
        points, real, most = rows_at(features, best), best != PADDING, int(_part(self.ratio, most))
        centres, group = density_peaks(points, real, groups, most=most)
        members = group_rows(group, real, centres.shape[1])
        rows = unit_rows(kept, scores.shape[1])
        return appended(kept, rows, mean_rows(members) @ unit_rows(best, scores.shape[1]), centres != PADDING)

    def extra(self, dropped: int) -> int:
        return int(_part(self.ratio, _part(self.share, torch.tensor([dropped]))))


def _part(share: float, number: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """Returns the share rounded down plus one, or 0 of 0."""
    return torch.where(number > 0, (share * number.double()).long() + 1, 0)
