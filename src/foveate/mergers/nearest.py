"""Dropped patches merged into the nearest kept one."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.compression import Compression
from foveate.core.contracts import Merger
from foveate.core.trace import Trace
from foveate.functional.matching import nearest
from foveate.functional.mixing import group_rows, left_over, mean_rows, unit_rows


@dataclass(frozen=True)
class Nearest(Merger):
    """Merger that gives the mean of each kept patch and of the dropped patches nearest to it.

    Nearest is by cosine of the features that are merged.

    Source: arXiv 2505.22654 (VScan, which merges after the projector).
    """

    def merge(
        self,
        features: Float[Tensor, "batch source dim"],
        kept: Int[Tensor, "batch kept"],
        scores: Float[Tensor, "batch patch"],
        trace: Trace,
        budget: int,
    ) -> Compression:
        patches = scores.shape[1]
        joined = group_rows(nearest(features[:, :patches], kept), left_over(kept, scores), kept.shape[1])
        return Compression(kept, mean_rows(unit_rows(kept, patches) + joined))
