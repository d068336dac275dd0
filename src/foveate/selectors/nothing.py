"""No patches."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.trace import Trace


@dataclass(frozen=True)
class Nothing(Selector):
    """Selector that keeps nothing, whatever the budget.

    Source: arXiv 2405.05803 (VTW, which drops all visual tokens before one block).
    """

    static_count: ClassVar[bool] = True

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        return torch.empty(len(scores), 0, dtype=torch.long, device=scores.device)

    def expected(self, keep: int, left: int | float, patches: int) -> int | float:
        return 0
