"""One token for all dropped patches."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.compression import Compression
from foveate.core.contracts import Merger
from foveate.core.trace import Trace
from foveate.functional.mixing import appended, left_over, mean_rows, unit_rows


@dataclass(frozen=True)
class DroppedMean(Merger):
    """Merger that keeps patches unchanged and appends the plain mean of the dropped ones, if there are any.

    Source: arXiv 2409.10994 (TRIM).
    """

    def merge(
        self,
        features: Float[Tensor, "batch source dim"],
        kept: Int[Tensor, "batch kept"],
        scores: Float[Tensor, "batch patch"],
        trace: Trace,
        budget: int,
    ) -> Compression:
        dropped = left_over(kept, scores)[:, None]
        return appended(kept, unit_rows(kept, scores.shape[1]), mean_rows(dropped.float()), dropped.any(-1))

    def extra(self, dropped: int) -> int:
        return int(dropped > 0)
