"""Patches whose scores are outliers."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.trace import Trace
from foveate.functional.clustering import limited
from foveate.functional.outliers import outliers
from foveate.functional.ranking import in_raster_order, longest, ranked


@dataclass(frozen=True)
class Outliers(Selector):
    """Selector of the scores above Q3 + factor * (Q3 - Q1), at least one and at most `keep`.

    Quartiles are those of each image; the authors take them over a batch.

    Source: arXiv 2403.15388 (PruMerge: order "score"), arXiv 2409.10994 (TRIM: order "raster").

    Attributes:
        factor: Number of interquartile ranges above the upper quartile.
        order: Order of the kept patches: "raster", or "score" for falling scores.
    """

    factor: float = 1.5
    order: Literal["raster", "score"] = "raster"

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        counts = outliers(scores, self.factor).clamp(1, keep)
        best = limited(ranked(scores, longest(counts, keep)), counts)
        return in_raster_order(best, scores.shape[1]) if self.order == "raster" else best
