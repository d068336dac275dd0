"""The patches with the highest scores of each view."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.trace import Trace
from foveate.functional.ranking import listed, marked, top_k
from foveate.functional.regions import numbered


@dataclass(frozen=True)
class TopKPerView(Selector):
    """Selector of the highest scores of each view of an image, whose budgets are proportional to their patches.

    In contrast to `PerTile`, all tiles of a view compete. An image with one view has one budget. The authors round the
    budget of each view down; here views with the largest remainders get what is left, so that the sum is `keep`.

    Source: arXiv 2501.02268 (G-Prune).
    """

    needs_keep: ClassVar[bool] = True
    static_count: ClassVar[bool] = True

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        if len(trace.views) == 1:
            return top_k(scores, keep)
        view_of, _ = numbered(trace.origins.to(scores.device), trace.views)
        stays = torch.zeros_like(scores, dtype=torch.bool)
        for view, share in enumerate(_shares(keep, [view.patches for view in trace.views])):
            if share:
                best = top_k(scores.masked_fill(view_of != view, -torch.inf), share)
                stays |= marked(best, scores.shape[1])
        return listed(stays, keep)


def _shares(keep: int, sizes: Sequence[int]) -> list[int]:
    """Returns the parts of a budget in proportion to sizes, rounded by largest remainder; of equal ones the first."""
    parts = [divmod(keep * size, sum(sizes)) for size in sizes]
    missing = keep - sum(whole for whole, _ in parts)
    greatest = sorted(range(len(sizes)), key=lambda view: -parts[view][1])[:missing]
    return [whole + (view in greatest) for view, (whole, _) in enumerate(parts)]
