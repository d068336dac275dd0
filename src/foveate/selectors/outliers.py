"""As many of the best patches as stand out from the others."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.trace import Trace
from foveate.functional.clustering import limited
from foveate.functional.outliers import outliers
from foveate.functional.ranking import in_raster_order, ranked


@dataclass(frozen=True)
class Outliers(Selector):
    """Keeps what lies above Q3 + factor * (Q3 - Q1) of an image's scores; `keep` is the most, one patch the fewest.

    The authors take the quartiles over a batch; here they are each image's own.

    Source: arXiv 2403.15388 (PruMerge: order "score"), arXiv 2409.10994 (TRIM: order "raster").

    Attributes:
        factor: See above.
        order: "raster", or "score" for falling scores.
    """

    factor: float = 1.5
    order: Literal["raster", "score"] = "raster"

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        counts = outliers(scores, self.factor).clamp(1, keep)
        best = limited(ranked(scores, int(counts.max())), counts)
        return in_raster_order(best, scores.shape[1]) if self.order == "raster" else best
