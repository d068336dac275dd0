"""Patches leave the tower step by step, those first to and from which least information flows."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.compression import Block, Compression
from foveate.core.contracts import Reduction
from foveate.core.errors import LayerError
from foveate.core.trace import PADDING
from foveate.core.values import Share
from foveate.functional.attention import attention_rows
from foveate.functional.ranking import listed


@dataclass(frozen=True)
class InformationFlow(Reduction):
    """Drops patches on the output of every second block, down to the budget one block before the feature layer.

    A patch's score in one block is what [CLS] attends to it plus how alike their values are, times the length of its
    value; over the blocks it is averaged exponentially. The more concentrated the attention of [CLS], the more patches
    leave. How many is decided for each image; the authors' code takes the maximum of the batch.

    Source: arXiv 2505.19536 (FlowCut, the part inside the tower).

    Attributes:
        memory: Weight of the earlier blocks in the running score.
    """

    needs_cls: ClassVar[bool] = True
    memory: Share = 0.5

    def reduce(self, block: Block, state: Tensor | None) -> tuple[Compression, Tensor | None]:
        if block.feature_layer == 0:
            raise LayerError("the features are written by layer 0: InformationFlow drops patches in the layers before")
        real = block.real[:, 1:]
        attention = _row(block.query, block.key, block.scaling, block.real)
        alike = _row(block.value, block.value, 1.0, block.real)
        flow = (attention + alike) * block.value.float().mean(1)[:, 1:].abs().sum(-1)
        flow = flow if state is None else self.memory * state + (1 - self.memory) * flow
        count = _left(attention, real.sum(1), block.keep, block.feature_layer - 1 - block.layer)
        order = flow.masked_fill(~real, -torch.inf).argsort(dim=-1, descending=True, stable=True)
        kept = listed((order.argsort(dim=-1) < count[:, None]) & real)
        cls = kept.new_zeros(len(kept), 1)
        origin = torch.cat([cls, torch.where(kept == PADDING, PADDING, kept + 1)], 1)
        return Compression(origin), flow.gather(1, kept.clamp(min=0))


def _row(
    query: Float[Tensor, "batch head token dim"],
    key: Float[Tensor, "batch head token dim"],
    scaling: float,
    real: Bool[Tensor, "batch token"],
) -> Float[Tensor, "batch patch"]:
    """Softmax row of the first token, averaged over heads, without its own entry, with sum 1."""
    row = attention_rows(query[:, :, :1], key, scaling, real[:, None, None]).mean(1)[:, 0, 1:]
    return row / row.sum(-1, keepdim=True)


def _left(
    attention: Float[Tensor, "batch patch"], patches: Int[Tensor, " batch"], keep: int, remaining: int
) -> Int[Tensor, " batch"]:
    """How many patches of each image are left after a block that so many blocks follow before the last drop."""
    if remaining < 0 or remaining % 2:
        return patches
    if remaining == 0:
        return patches.clamp(max=keep)
    entropy = -torch.xlogy(attention, attention).sum(-1)
    focus = 1 - (entropy / patches.clamp(min=2).log()).square()
    return patches - ((patches - keep) / remaining**0.5 * focus).round().long().clamp(min=0)
