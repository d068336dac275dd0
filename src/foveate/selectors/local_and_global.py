"""Half of the budget by an early layer in each window; the other half by score."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.needs import ClsRows, Need
from foveate.core.trace import Trace
from foveate.core.transfer import on_device
from foveate.core.values import Count
from foveate.functional.ranking import listed, marked, top_k
from foveate.functional.regions import rank_within, rectangles


@dataclass(frozen=True)
class LocalAndGlobal(Selector):
    """Selector of the patches that [CLS] of an early layer attends to most in every window, and of the best scores.

    Half of the budget, rounded down, is split equally among the windows; the remainder of the division is not used, as
    in the authors' code.

    Source: arXiv 2505.22654 (VScan, first stage).

    Attributes:
        layer: Layer of the tower, 0-based, negative from the end.
        windows: Number of windows per side, as equal as whole patches allow.
    """

    needs_keep: ClassVar[bool] = True
    static_count: ClassVar[bool] = True
    layer: int = 5
    windows: Count = 4

    @property
    def needs(self) -> tuple[Need, ...]:
        return (ClsRows((self.layer,)),)

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        real = scores > -torch.inf
        early = trace[ClsRows((self.layer,))][:, 0].mean(1).masked_fill(~real, -torch.inf)
        window = rectangles(on_device(trace.origins, scores.device), trace.views, self.windows, self.windows)
        local = real & (rank_within(early, window) < keep // 2 // self.windows**2)
        best = top_k(scores.masked_fill(local, -torch.inf), keep - keep // 2)
        return listed(local | marked(best, scores.shape[1]), keep)

    def expected(self, keep: int, left: int | float, patches: int) -> int | float:
        return min(left, keep // 2 // self.windows**2 * self.windows**2 + keep - keep // 2)
