"""The patches with the highest scores of each view."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.trace import Trace
from foveate.core.transfer import on_device
from foveate.functional.ranking import listed
from foveate.functional.regions import numbered, rank_within


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
        view_of, _ = numbered(on_device(trace.origins, scores.device), trace.views)
        shares = on_device(torch.tensor(_shares(keep, [view.patches for view in trace.views])), scores.device)
        return listed((scores > -torch.inf) & (rank_within(scores, view_of) < shares[view_of]), keep)


def _shares(keep: int, sizes: Sequence[int]) -> list[int]:
    """Returns the parts of a budget in proportion to sizes, rounded by largest remainder; of equal ones the first."""
    parts = [divmod(keep * size, sum(sizes)) for size in sizes]
    missing = keep - sum(whole for whole, _ in parts)
    greatest = sorted(range(len(sizes)), key=lambda view: -parts[view][1])[:missing]
    return [whole + (view in greatest) for view, (whole, _) in enumerate(parts)]
