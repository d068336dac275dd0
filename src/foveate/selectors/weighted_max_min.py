"""Patches far from each other, weighted by their scores."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.needs import Features, Need
from foveate.core.trace import Trace
from foveate.functional.diversity import by_nearest
from foveate.functional.matching import cosine
from foveate.functional.ranking import in_raster_order
from foveate.functional.scaling import min_max

_RANGE = 1e-8  # added to the range of the scores, as in the authors' code


@dataclass(frozen=True)
class WeightedMaxMin(Selector):
    """Greedy selector of the score in 0..1 times the distance, 1 - cosine, to the nearest kept patch.

    Scores of an image are mapped to 0..1, so that the least counts as 0 and comes last; equal scores count as 1. The
    first patch is the one with the highest score.

    Source: arXiv 2509.24837 (ZOO-Prune).

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
        features, free = trace[Features(self.projected)].double(), scores > -torch.inf
        weight = min_max(scores.double(), free, widened=_RANGE)
        weight = torch.where((weight > 0).any(1, keepdim=True), weight, 1.0)
        chosen = by_nearest(cosine(features, features), weight, lambda closest: weight * (1 - closest), free, keep)
        return in_raster_order(chosen, scores.shape[1])
