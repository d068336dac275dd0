"""Oracle: attention of the answer to the image."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.needs import Need, ResponseRows
from foveate.core.trace import Trace
from foveate.functional.attention import reduce_heads


@dataclass(frozen=True)
class ResponseAttention(Scorer):
    """Scorer by the attention that the uncompressed model pays to a patch while it produces its answer.

    It reads the answer before it chooses, so it is no method. VTC-CLS (arXiv 2412.05819) proposes it as the reference
    for prompt attention.

    Attributes:
        layers: Blocks of the language model, which are averaged; empty means all.
        heads: See `ClsAttention`.
    """

    layers: tuple[int, ...] = ()
    heads: Literal["mean", "sum", "max"] | tuple[int, ...] = "mean"

    @property
    def needs(self) -> tuple[Need, ...]:
        return (ResponseRows(self.layers),)

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        return reduce_heads(trace[self.needs[0]], self.heads).mean(1)
