"""Merging of pairs of similar tokens in every block."""

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
    """Reduction that merges tokens at even indices, except [CLS], into the most similar ones at odd indices.

    Similarity is the cosine of the keys, averaged over heads; tokens are merged by a mean weighted by size. Every block
    merges the same number, but at most half of the patches. A merged token takes the position of the token at the odd
    index.

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
    """Returns how many patches this block merges: an equal share, and at least what later blocks could not merge.

    Args:
        patches: Number of patches before the block.
        keep: Number of patches after the last block.
        blocks: Number of blocks that merge, this one included.

    Raises:
        BudgetError: The block would have to merge more than half of the patches.
    """
    excess = max(patches - keep, 0)
    merged = max(-(-excess // blocks), patches - keep * 2 ** (blocks - 1))
    if merged > patches // 2:
        raise BudgetError(
            f"keep={keep}: each of {blocks} blocks can at most halve the {patches} patches, so keep at least "
            f"{-(-patches // 2**blocks)}"
        )
    return merged
