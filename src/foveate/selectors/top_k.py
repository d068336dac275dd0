"""The patches with the highest scores."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.trace import Trace
from foveate.functional.ranking import ranked, top_k


@dataclass(frozen=True)
class TopK(Selector):
    """Selector of the `keep` highest scores.

    Attributes:
        order: Order of the kept patches: "raster", or "score" for falling scores.
    """

    needs_keep: ClassVar[bool] = True
    static_count: ClassVar[bool] = True
    order: Literal["raster", "score"] = "raster"

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        return top_k(scores, keep) if self.order == "raster" else ranked(scores, keep)
