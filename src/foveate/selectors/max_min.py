"""Patches that are far from each other."""

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
    """Greedy selector of the patch whose nearest kept patch is furthest by cosine; scores are ignored.

    The first patch is the one whose nearest other patch is furthest. Kept patches cannot be kept again; in the authors'
    code they can, if there are exact duplicates.

    Source: arXiv 2503.02175 (DivPrune).

    Attributes:
        projected: Whether features are read after the projector.
    """

    needs_keep: ClassVar[bool] = True
    static_count: ClassVar[bool] = True
    projected: bool = True

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Features(self.projected),)

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        features = trace[Features(self.projected)].double()
        return in_raster_order(max_min(cosine(features, features), scores > -torch.inf, keep), scores.shape[1])
