"""Attention of the prompt to the visual tokens inside the language model.

Source: arXiv 2403.06764 (FastV) for the last token in the block before the cut; arXiv 2410.17247 (PyramidDrop) for
the last token in the block at the cut; arXiv 2412.13180 (FEATHER) for attention without positions; arXiv 2410.04417
(SparseVLM) for raters, and its version 2.0 for `debiased` and `strongest`.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.needs import Need, PromptRows
from foveate.core.trace import Trace
from foveate.core.values import Count
from foveate.functional.attention import reduce_heads


@dataclass(frozen=True)
class PromptAttention(Scorer):
    """Scorer by the attention that tokens of the prompt pay to a visual token in one decoder block.

    Attributes:
        layer: The block; see `PromptRows`.
        query: The tokens whose attention is read; see `PromptRows`.
        rotary: Whether queries and keys are rotated by their positions.
        over: Whether the softmax runs over all keys or over the visual tokens only.
        debiased: Whether attention is divided by what positions alone would give; see `PromptRows`.
        heads: See `ClsAttention`.
        strongest: Number of heads that are read, those with most attention to the image; None means all.
    """

    layer: int
    query: Literal["last", "mean", "raters", "all"] = "last"
    rotary: bool = True
    over: Literal["all", "patches"] = "all"
    debiased: bool = False
    heads: Literal["mean", "sum", "max"] | tuple[int, ...] = "mean"
    strongest: Count | None = None

    @property
    def needs(self) -> tuple[Need, ...]:
        return (PromptRows(self.layer, self.query, self.rotary, self.over, self.debiased),)

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        rows = trace[self.needs[0]]
        if self.strongest is not None and self.strongest < rows.shape[1]:
            real = trace.real.to(rows)
            best = (rows * real[:, None]).sum(2).topk(self.strongest, dim=1).indices
            rows = rows.gather(1, best[..., None].expand(-1, -1, rows.shape[2]))
        return reduce_heads(rows[:, None], self.heads)[:, 0]
