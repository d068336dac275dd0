"""Attention of the prompt to a visual token times that of the image."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.needs import Need, PromptRows
from foveate.core.trace import Trace


@dataclass(frozen=True)
class CrossAndSelfAttention(Scorer):
    """Scorer by what the tokens after the image pay to a visual token, times what the visual tokens pay to it.

    Both are means over queries of the greatest head's attention in one decoder block.

    Source: arXiv 2409.10197 (FitPrune).

    Attributes:
        layer: The block; see `PromptRows`.
    """

    layer: int

    @property
    def needs(self) -> tuple[Need, ...]:
        return tuple(PromptRows(self.layer, query, heads="max") for query in ("mean", "visual"))

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        cross, own = (trace[need][:, 0] for need in self.needs)
        return cross * own
