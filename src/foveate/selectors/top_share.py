"""A share of what is left, by score."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.types import Trace
from foveate.functional.ranking import top_k


@dataclass(frozen=True)
class TopShare(Selector):
    """Keeps, of the tokens that are left, a power of the share that the budget is of all patches, rounded down.

    Source: arXiv 2412.13180 (FEATHER, whose second cut squares the share of the first).

    Attributes:
        power: See above.
    """

    power: int | float = 2

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        share = (keep / trace.patches) ** self.power
        there = scores > -torch.inf
        count = (there.sum(1, keepdim=True) * share + 1e-9).long().clamp(min=1)
        order = scores.argsort(dim=-1, descending=True, stable=True).argsort(-1)
        return top_k(scores.masked_fill(order >= count, -torch.inf), scores.shape[1])

    def expected(self, keep: int, left: int | float, patches: int) -> int | float:
        return max(1, math.floor(left * (keep / patches) ** self.power))
