"""Merging of redundant patches into those that they attend to, block by block."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from foveate.core.compression import Block, Compression
from foveate.core.contracts import Reduction
from foveate.core.errors import LayerError
from foveate.core.values import Natural
from foveate.functional.redundancy import above_quantile, added, least_of_windows, mean_logits, penalised, worth


@dataclass(frozen=True)
class FilterAndMerge(Reduction):
    """Reduction that merges equally many redundant patches in every block from `start` on.

    A patch is redundant if [CLS] attends little to it and it attends much to the others (logits averaged over heads).
    In every window of two by two patches of the image, the most redundant of those that are left is taken to be even
    more so. A merged patch is added to the remaining patches whose logits are above 0.998 of its own, by a softmax over
    them; each of those becomes a weighted mean. Remaining patches stay in raster order, and [CLS] as it is.

    Source: arXiv 2411.17686 (FiCoCo-V, as the paper describes it).

    Attributes:
        start: The first block that merges.
    """

    needs_cls: ClassVar[bool] = True
    before_mlp: ClassVar[bool] = True
    start: Natural = 12

    def reduce(self, block: Block, state: Tensor | None) -> tuple[Compression, Tensor | None]:
        merges = merged_here(block, self.start)
        batch, _, tokens, _ = block.key.shape
        everything = torch.arange(tokens, device=block.key.device).expand(batch, -1)
        if not merges:
            return Compression(everything), state
        logits = mean_logits(block.query, block.key, block.scaling)
        values = worth(logits)
        patch = everything[:, :-1] if state is None else state
        grid = values.new_full((batch, block.grid.patches), torch.inf).scatter_(1, patch, values)
        marks = least_of_windows(grid, block.grid)
        order = penalised(values, marks.gather(1, patch)).argsort(dim=1, stable=True)
        merged, left = order[:, :merges] + 1, order[:, merges:].sort(1).values
        rows = logits.gather(1, merged[..., None].expand(-1, -1, tokens))
        rows = rows.gather(2, left[:, None].expand(-1, merges, -1) + 1)
        weights = rows.masked_fill(~above_quantile(rows), -torch.inf).softmax(2)
        origin = torch.cat([torch.zeros_like(left[:, :1]), left + 1], 1)
        mixing = added(origin, merged, torch.cat([torch.zeros_like(weights[..., :1]), weights], 2), tokens)
        return Compression(origin, mixing), patch.gather(1, left)


def merged_here(block: Block, start: int) -> int:
    """Returns how many patches a block merges: an equal share of those that must go from `start` on.

    Raises:
        LayerError: No block merges before the features are written.
    """
    if start > block.feature_layer:
        raise LayerError(
            f"start={start}: this tower's features are written by layer {block.feature_layer}, so no block would merge "
            f"patches before; start at 0..{block.feature_layer}"
        )
    excess = max(block.key.shape[2] - 1 - block.keep, 0)
    return 0 if block.layer < start else -(-excess // (block.feature_layer + 1 - block.layer))
