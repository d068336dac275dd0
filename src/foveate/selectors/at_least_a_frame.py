"""A budget of at least as many patches as one frame has."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.trace import Trace
from foveate.functional.ranking import top_k


@dataclass(frozen=True)
class AtLeastAFrame(Selector):
    """Selector of the `keep` highest scores, or of as many as a frame has patches if that is more.

    Source: arXiv 2510.14624 (EVS, whose first frame is always whole).
    """

    needs_keep: ClassVar[bool] = True

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        return top_k(scores, max(keep, trace.patches // trace.frames))
