"""Dropped patches merged into the nearest kept one."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.compression import Compression
from foveate.core.contracts import Merger
from foveate.core.trace import Trace
from foveate.functional.mixing import left_over, nearest_mean_rows


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
        patches = features[:, : scores.shape[1]]
        return Compression(kept, nearest_mean_rows(patches, kept, left_over(kept, scores)))
