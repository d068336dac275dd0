"""Attention that a patch receives from all others.

Source: arXiv 2508.00553 (HiPrune), over all queries; LLaVA-OneVision ports of [CLS] methods (arXiv 2412.01818,
VisPruner) use it for towers without [CLS]. arXiv 2601.22674 (VisionTrim), over the queries of other patches.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.needs import Need, ReceivedRows
from foveate.core.trace import Trace
from foveate.functional.attention import reduce_heads


@dataclass(frozen=True)
class ReceivedAttention(Scorer):
    """Scorer by the mean attention that a patch receives in one layer.

    Attributes:
        layer: Layer of the tower, 0-based, negative from the end.
        heads: See `ClsAttention`.
        others: Whether only the queries of other patches count, and neither that of [CLS] nor the patch's own.
    """

    layer: int
    heads: Literal["mean", "sum", "max"] | tuple[int, ...] = "mean"
    others: bool = False

    @property
    def needs(self) -> tuple[Need, ...]:
        return (ReceivedRows(self.layer, self.others),)

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        return reduce_heads(trace[self.needs[0]][:, None], self.heads)[:, 0]
