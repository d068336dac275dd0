"""Patches with high scores that resemble no other kept patch: maximal marginal relevance."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.needs import Features, Need
from foveate.core.trace import Trace
from foveate.core.values import Count, NotNegative
from foveate.functional.diversity import by_nearest
from foveate.functional.matching import cosine
from foveate.functional.ranking import in_raster_order
from foveate.functional.scaling import min_max

_RANGE = 1e-6  # keeps the range of equal scores above 0


@dataclass(frozen=True)
class MarginalRelevance(Selector):
    """Greedy selector of the score in 0..1 minus `weight` times the largest cosine to a kept patch.

    Scores of an image are mapped to 0..1; the first patch is the one with the highest score.

    Source: the code of IDPruner (github.com/Tencent/AngelSlim), which maximises lambda * score - (1 - lambda) * cosine:
    `weight` is (1 - lambda) / lambda; and of UniAttn (github.com/XiangbinPeng/UniAttn): weight 0.3, `clamped`.

    Attributes:
        weight: Weight of the largest cosine; 0 keeps the best scores.
        clamped: Whether a range of scores below 1e-6 counts as 1e-6; otherwise 1e-6 is added to it.
        at_once: Number of patches that a round keeps, whatever their similarity to each other.
        projected: Whether features are read after the projector.
    """

    needs_keep: ClassVar[bool] = True
    static_count: ClassVar[bool] = True
    weight: NotNegative = 1.0
    clamped: bool = False
    at_once: Count = 1
    projected: bool = True

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Features(self.projected),)

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        features, free = trace[Features(self.projected)].double(), scores > -torch.inf
        widened, least = (0.0, _RANGE) if self.clamped else (_RANGE, 0.0)
        scaled = min_max(scores.double(), free, widened=widened, least=least)
        chosen = by_nearest(
            cosine(features, features),
            scaled,
            lambda closest: scaled - self.weight * closest,
            free,
            keep,
            self.at_once,
        )
        return in_raster_order(chosen, scores.shape[1])
