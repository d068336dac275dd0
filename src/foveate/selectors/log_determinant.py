"""Patches that span the features of all patches."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.needs import Features, Need
from foveate.core.trace import Trace
from foveate.core.values import Positive
from foveate.functional.diversity import determinantal
from foveate.functional.ranking import in_raster_order


@dataclass(frozen=True)
class LogDeterminant(Selector):
    """Selector of the greedy maximum of log det(I + gamma G G'), with G = F F' of the features; scores are ignored.

    Each column of F, one channel over the patches of an image, is normalised to length 1.

    Source: arXiv 2602.20205 (OTPrune).

    Attributes:
        gamma: Factor of G G'.
        projected: Whether features are read after the projector.
    """

    needs_keep: ClassVar[bool] = True
    static_count: ClassVar[bool] = True
    gamma: Positive = 0.01
    projected: bool = True

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Features(self.projected),)

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        free = scores > -torch.inf
        channels = F.normalize(trace[Features(self.projected)].double() * free[..., None], dim=1)
        gram = channels @ channels.mT
        kernel = self.gamma * gram @ gram.mT + torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
        return in_raster_order(determinantal(kernel, free, keep), scores.shape[1])
