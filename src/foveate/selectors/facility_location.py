"""Patches that cover all others, weighted by their scores: facility location."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.needs import Features, Need
from foveate.core.trace import Trace
from foveate.functional.diversity import coverage
from foveate.functional.matching import cosine
from foveate.functional.ranking import in_raster_order


@dataclass(frozen=True)
class FacilityLocation(Selector):
    """Greedy selector of the patch that most increases the sum of all patches' cosine to their nearest kept patch.

    Negative cosines count as 0. Scores must not be negative.

    Source: arXiv 2510.24214 (SCOPE; the score there is the sum over heads, which matters for "add" only).

    Attributes:
        alpha: Exponent of the scores.
        combine: Whether the score to that power multiplies the gain ("multi") or is added to it ("add").
    """

    needs_keep: ClassVar[bool] = True
    static_count: ClassVar[bool] = True
    alpha: float = 1.0
    combine: Literal["multi", "add"] = "multi"

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Features(),)

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        features = trace[Features()].double()
        free = scores > -torch.inf
        cover = cosine(features, features) * free[..., None]
        power = scores.double().clamp(min=0) ** self.alpha
        neutral = torch.ones_like(power)
        weight, bonus = (power, 0 * neutral) if self.combine == "multi" else (neutral, power)
        return in_raster_order(coverage(cover, weight, bonus, free, keep), scores.shape[1])
