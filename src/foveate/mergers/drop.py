"""Dropped patches without a trace in the tokens."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.compression import Compression
from foveate.core.contracts import Merger
from foveate.core.trace import Trace


@dataclass(frozen=True)
class Drop(Merger):
    """Merger that gives the kept patches unchanged."""

    def merge(
        self,
        features: Float[Tensor, "batch source dim"],
        kept: Int[Tensor, "batch kept"],
        scores: Float[Tensor, "batch patch"],
        trace: Trace,
        budget: int,
    ) -> Compression:
        return Compression(kept)
