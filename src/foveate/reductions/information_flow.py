"""Dropping of the patches with the least information flow, block by block."""

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
    """Reduction that drops patches after every second block, down to the budget one block before the feature layer.

    The score of a patch in a block is the attention of [CLS] to it plus the similarity of their values, times the norm
    of its value; scores are averaged exponentially over the blocks. The more concentrated the attention of [CLS], the
    more patches are dropped. The number is that of each image; the authors' code takes the maximum of the batch.

    Source: arXiv 2505.19536 (FlowCut, the part inside the tower).

    Attributes:
        memory: Weight of earlier blocks in the running average of scores.
    """

    needs_cls: ClassVar[bool] = True
    memory: Share = 0.5

    def reduce(self, block: Block, state: Tensor | None) -> tuple[Compression, Tensor | None]:
        if block.feature_layer == 0:
            raise LayerError("the features are written by layer 0: InformationFlow drops patches in the layers before")
        real = block.real[:, 1:]
        attention = _row(block.query, block.key, block.scaling, block.real)
        similarity = _row(block.value, block.value, 1.0, block.real)
        flow = (attention + similarity) * block.value.float().mean(1)[:, 1:].abs().sum(-1)
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
    """Returns the softmax row of the first token over the others, averaged over heads and normalised to sum 1."""
    row = attention_rows(query[:, :, :1], key, scaling, real[:, None, None]).mean(1)[:, 0, 1:]
    return row / row.sum(-1, keepdim=True)


def _left(
    attention: Float[Tensor, "batch patch"], patches: Int[Tensor, " batch"], keep: int, remaining: int
) -> Int[Tensor, " batch"]:
    """Returns the number of patches of each image after a block, `remaining` blocks before the last one that drops."""
    if remaining < 0 or remaining % 2:
        return patches
    if remaining == 0:
        return patches.clamp(max=keep)
    entropy = -torch.xlogy(attention, attention).sum(-1)
    focus = 1 - (entropy / patches.clamp(min=2).log()).square()
    return patches - ((patches - keep) / remaining**0.5 * focus).round().long().clamp(min=0)
