"""Every part of the image gets the same share of the budget."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.trace import Trace
from foveate.core.values import Count
from foveate.functional.ranking import top_k
from foveate.functional.regions import rank_within, rectangles


@dataclass(frozen=True)
class RegionQuota(Selector):
    """Keeps the best patch of every rectangle, then the second best of each, until the budget is spent.

    So quotas differ by at most one, unless a rectangle runs out; the last round goes to the highest scores.

    Attributes:
        rows: Of rectangles; as equal as whole patches allow.
        columns: Of rectangles.
    """

    needs_keep: ClassVar[bool] = True
    rows: Count = 4
    columns: Count = 4

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        region = rectangles(trace.places.to(scores.device), trace.views, self.rows, self.columns)
        best = rank_within(scores, torch.zeros_like(region))
        order = -(rank_within(scores, region) * scores.shape[1] + best).double()
        return top_k(order.masked_fill(scores == -torch.inf, -torch.inf), keep)
