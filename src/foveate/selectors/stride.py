"""A regular grid of patches."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.trace import Trace
from foveate.core.transfer import on_device
from foveate.core.values import Count
from foveate.functional.ranking import listed
from foveate.functional.regions import located


@dataclass(frozen=True)
class Stride(Selector):
    """Selector of every `step`-th patch of every `step`-th row; scores and the budget are ignored.

    The expected count assumes one square image whose remaining tokens are spread evenly.

    Source: arXiv 2412.13180 (FEATHER).

    Attributes:
        step: Step in both directions, from the top left patch.
    """

    step: Count = 3

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        origins = on_device(trace.origins, scores.device)
        _, row, column = located(origins, trace.views)
        return listed((row % self.step == 0) & (column % self.step == 0) & (origins >= 0) & (scores > -torch.inf))

    def expected(self, keep: int, left: int | float, patches: int) -> int | float:
        return left * min(1, math.ceil(patches**0.5 / self.step) ** 2 / patches)
