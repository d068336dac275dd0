"""Dropped tokens averaged one by one into the nearest kept one."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.compression import Compression
from foveate.core.contracts import Merger
from foveate.core.trace import Trace
from foveate.functional.matching import nearest
from foveate.functional.mixing import group_rows, left_over, unit_rows


@dataclass(frozen=True)
class RunningMean(Merger):
    """Merger that puts each dropped token, in order, into the mean of itself and the kept one most similar to it.

    Similarity is the cosine before any is merged. As each mean counts the kept token and the dropped one equally, later
    tokens weigh more.

    Source: arXiv 2505.21334 (HoliTom, inside the language model).
    """

    def merge(
        self,
        features: Float[Tensor, "batch source dim"],
        kept: Int[Tensor, "batch kept"],
        scores: Float[Tensor, "batch patch"],
        trace: Trace,
        budget: int,
    ) -> Compression:
        member = group_rows(nearest(features[:, : scores.shape[1]], kept), left_over(kept, scores), kept.shape[1])
        later = member.sum(2, keepdim=True) - member.cumsum(2)
        rows = member * 0.5 ** (later + 1) + unit_rows(kept, scores.shape[1]) * 0.5 ** member.sum(2, keepdim=True)
        return Compression(kept, rows)
