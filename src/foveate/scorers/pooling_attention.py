"""Attention of a tower's pooling head."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.needs import Need, PoolingRows
from foveate.core.trace import Trace


@dataclass(frozen=True)
class PoolingAttention(Scorer):
    """Scorer by the attention of the pooling head's query, averaged over heads.

    Source: arXiv 2503.11187 (FastVID, on SigLIP).
    """

    @property
    def needs(self) -> tuple[Need, ...]:
        return (PoolingRows(),)

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        return trace[PoolingRows()].mean(1)
