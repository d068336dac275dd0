"""Attention of [CLS] in one layer.

Source: arXiv 2412.01818v1 (FasterVLM), which reads the layer that writes the features.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.needs import ClsRows, Need
from foveate.core.trace import Trace
from foveate.functional.attention import reduce_heads


@dataclass(frozen=True)
class ClsAttention(Scorer):
    """Scorer by the attention that [CLS] pays to a patch.

    Attributes:
        layer: Layer of the tower, 0-based, negative from the end.
        heads: Reduction over the heads, or the numbers of the heads that are averaged.
    """

    layer: int
    heads: Literal["mean", "sum", "max"] | tuple[int, ...] = "mean"

    @property
    def needs(self) -> tuple[Need, ...]:
        return (ClsRows((self.layer,)),)

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        return reduce_heads(trace[self.needs[0]], self.heads)[:, 0]
