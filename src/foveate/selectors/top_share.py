"""A share of the remaining tokens, by score."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.budget import Number, plain_keep, resolve_keep
from foveate.core.contracts import Selector
from foveate.core.trace import Trace
from foveate.functional.ranking import top_k


@dataclass(frozen=True)
class TopShare(Selector):
    """Selector of a share of the remaining tokens, raised to a power and rounded down.

    Source: arXiv 2412.13180 (FEATHER, whose second cut squares the share of the first).

    Attributes:
        keep: The share; a count means its share of all patches.
        power: Exponent of the share.
    """

    static_count: ClassVar[bool] = True
    keep: Number
    power: int | float = 2

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        real = scores > -torch.inf
        count = (real.sum(1, keepdim=True).double() * self._share(trace.patches) + 1e-9).long().clamp(min=1)
        order = scores.argsort(dim=-1, descending=True, stable=True).argsort(-1)
        return top_k(scores.masked_fill(order >= count, -torch.inf), scores.shape[1])

    def expected(self, keep: int, left: int | float, patches: int) -> int | float:
        return max(1, math.floor(left * self._share(patches) + 1e-9))

    def _share(self, patches: int) -> float:
        count, keep = resolve_keep(self.keep, patches), plain_keep(self.keep)
        return (keep if isinstance(keep, float) else count / patches) ** self.power
