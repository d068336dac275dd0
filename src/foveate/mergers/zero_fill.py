"""Unused budget filled with zeros."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.compression import Compression
from foveate.core.contracts import Merger
from foveate.core.trace import EXTRA, PADDING, Trace
from foveate.functional.mixing import unit_rows


@dataclass(frozen=True)
class ZeroFill(Merger):
    """Merger that keeps patches unchanged and gives a zero token for each `PADDING` in `kept`.

    It needs a selector whose result is as wide as the budget, even if no image uses all of it.

    Source: arXiv 2510.02912 (HoloV, as in the authors' code).
    """

    fills_budget: ClassVar[bool] = True

    def merge(
        self,
        features: Float[Tensor, "batch source dim"],
        kept: Int[Tensor, "batch kept"],
        scores: Float[Tensor, "batch patch"],
        trace: Trace,
        budget: int,
    ) -> Compression:
        return Compression(torch.where(kept == PADDING, EXTRA, kept), unit_rows(kept, scores.shape[1]))
