"""Patches with high scores that differ from each other: a determinantal point process."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.needs import Features, Need
from foveate.core.trace import Trace
from foveate.functional.diversity import determinantal
from foveate.functional.matching import cosine
from foveate.functional.ranking import in_raster_order


@dataclass(frozen=True)
class Determinantal(Selector):
    """Selector of the greedy maximum of det L, with L_ij = score_i cosine_ij score_j; scores must not be negative.

    Once the kept patches span all features, the others follow by falling score. The authors' code divides by zero there
    and keeps too few patches.

    Source: arXiv 2506.10967 (CDPruner).

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
        free = scores > -torch.inf
        quality = torch.where(free, scores, 0).double()
        kernel = quality[:, :, None] * cosine(features, features) * quality[:, None]
        return in_raster_order(determinantal(kernel, free, keep), scores.shape[1])
