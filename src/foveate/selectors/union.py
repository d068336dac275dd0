"""The union of what several selectors keep."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.needs import Need
from foveate.core.trace import Trace
from foveate.functional.ranking import listed, marked


@dataclass(frozen=True)
class Union(Selector):
    """Selector that gives each of its selectors the whole budget and keeps what any of them keeps.

    The expected count assumes that they choose independently.

    Attributes:
        selectors: One or more selectors; FEATHER has `TopK()` and `Stride(3)`.
    """

    selectors: tuple[Selector, ...]

    @property
    def needs_keep(self) -> bool:  # type: ignore[override] (a constant elsewhere)
        return any(selector.needs_keep for selector in self.selectors)

    @property
    def needs(self) -> tuple[Need, ...]:
        return tuple(dict.fromkeys(need for selector in self.selectors for need in selector.needs))

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        choices = [marked(selector.select(scores, trace, keep), scores.shape[1]) for selector in self.selectors]
        return listed(torch.stack(choices).any(0))

    def expected(self, keep: int, left: int | float, patches: int) -> int | float:
        dropped = (1 - each.expected(keep, left, patches) / left for each in self.selectors)
        return left * (1 - math.prod(dropped))
