"""Oracle: what the model looks at while it answers."""

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
    """Scores a patch by the attention that the uncompressed model pays it while it produces its answer.

    It knows the answer before it chooses, and is no method: the criterion that VTC-CLS (arXiv 2412.05819) argues
    prompt attention should be measured against.

    Attributes:
        layers: Blocks of the language model whose rows are averaged; none means all.
        heads: As in `ClsAttention`.
    """

    layers: tuple[int, ...] = ()
    heads: Literal["mean", "sum", "max"] | tuple[int, ...] = "mean"

    @property
    def needs(self) -> tuple[Need, ...]:
        return (ResponseRows(self.layers),)

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        return reduce_heads(trace[self.needs[0]], self.heads).mean(1)
