"""Pairs of like tokens become one, in every block."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from foveate.core.compression import Block, Compression
from foveate.core.contracts import Reduction
from foveate.core.errors import BudgetError
from foveate.functional.matching import bipartite
from foveate.functional.mixing import group_rows


@dataclass(frozen=True)
class Bipartite(Reduction):
    """In every block tokens at even places merge into the most alike one at an odd place, [CLS] excepted.

    Alike by cosine of the keys, averaged over heads; merged by a mean weighted by size. Every block merges the same
    number, so far as each can at most halve the patches; a merged token stands at the place of the odd one.

    Source: arXiv 2210.09461 (ToMe).
    """

    before_mlp: ClassVar[bool] = True
    proportional: ClassVar[bool] = True

    def reduce(self, block: Block, state: Tensor | None) -> tuple[Compression, Tensor | None]:
        tokens = block.key.shape[2]
        merged = _merged(tokens - block.has_cls, block.keep, block.feature_layer + 1 - block.layer)
        if merged == 0:
            return Compression(torch.arange(tokens, device=block.key.device).expand(len(block.key), -1)), None
        group, origin = bipartite(block.key.mean(1), merged, block.has_cls)
        weights = group_rows(group, block.real, origin.shape[1]) * block.size[:, None]
        return Compression(origin, weights / weights.sum(-1, keepdim=True)), None


def _merged(patches: int, keep: int, blocks: int) -> int:
    """An even share of what is left to merge, and at least what the later blocks could not merge.

    Raises:
        BudgetError: This block cannot merge so many.
    """
    excess = max(patches - keep, 0)
    merged = max(-(-excess // blocks), patches - keep * 2 ** (blocks - 1))
    if merged > patches // 2:
        raise BudgetError(
            f"keep={keep}: each of {blocks} blocks can at most halve the {patches} patches, so keep at least "
            f"{-(-patches // 2**blocks)}"
        )
    return merged
