"""Patches that are far from one another."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.needs import Features, Need
from foveate.core.trace import Trace
from foveate.functional.diversity import max_min
from foveate.functional.matching import cosine
from foveate.functional.ranking import in_raster_order


@dataclass(frozen=True)
class MaxMin(Selector):
    """Keeps, one after the other, the patch whose nearest kept one is furthest by cosine; scores do not matter.

    The first is the one whose nearest other patch is furthest. What is kept is not looked at again (in the authors'
    code it stays in the race, so that exact duplicates may be kept twice).

    Source: arXiv 2503.02175 (DivPrune).

    Attributes:
        projected: Whether features are compared after the projector.
    """

    needs_keep: ClassVar[bool] = True
    projected: bool = True

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Features(self.projected),)

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        features = trace[Features(self.projected)].double()
        return in_raster_order(max_min(cosine(features, features), scores > -torch.inf, keep), scores.shape[1])
