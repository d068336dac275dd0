"""The fewest patches that hold a share of the total score."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.trace import Trace
from foveate.core.values import Share
from foveate.functional.clustering import limited
from foveate.functional.ranking import listed, marked, ranked


@dataclass(frozen=True)
class Mass(Selector):
    """Selector of the fewest patches that hold a share of the total score, at least one and at most `keep`.

    Attributes:
        share: Share of the sum of all scores; negative scores count as 0.
    """

    share: Share

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        best = ranked(scores, keep)
        mass = scores.double().clamp(min=0)
        held = torch.where(best < 0, 0, mass.gather(1, best.clamp(min=0)))
        missing = held.cumsum(1) - held < self.share * mass.sum(1, keepdim=True)
        return listed(marked(limited(best, missing.sum(1).clamp(min=1)), scores.shape[1]))
