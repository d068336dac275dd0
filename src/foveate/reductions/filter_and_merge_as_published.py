"""Merging of redundant tokens as in the published code of FiCoCo-V."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.compression import Block, Compression
from foveate.core.contracts import Reduction
from foveate.core.errors import BudgetError
from foveate.core.values import Natural
from foveate.functional.redundancy import above_quantile, added, least_of_windows, mean_logits, penalised, worth
from foveate.reductions.filter_and_merge import merged_here


@dataclass(frozen=True)
class FilterAndMergeAsPublished(Reduction):
    """Reduction that differs from `FilterAndMerge` by the faults of the authors' code.

    - Tokens are sorted by falling redundancy, the first of them last. So [CLS] moves to the end, can be merged away,
      and whatever is first takes its part and is dropped after the tower.
    - Targets are the best of all tokens, merged ones included, and their places before the sorting are taken for places
      after it.
    - Windows are those of a buffer that is never emptied: the values of one block fill its free places in order, the
      least of each window is marked and its place closed. After some images every place is closed, and the first patch
      of every window is marked, counted in the current sequence. Here every image is the first one, or comes long
      after; in the authors' code results depend on what was run before, and images of a batch are averaged.

    Source: arXiv 2411.17686 (FiCoCo-V, code of commit 8995e93).

    Attributes:
        start: The first block that merges.
        first_image: Whether each image finds an empty buffer, instead of a full one.
    """

    needs_cls: ClassVar[bool] = True
    before_mlp: ClassVar[bool] = True
    keeps_cls: ClassVar[bool] = False
    start: Natural = 12
    first_image: bool = False

    def reduce(self, block: Block, state: Tensor | None) -> tuple[Compression, Tensor | None]:
        merges = merged_here(block, self.start)
        batch, _, tokens, _ = block.key.shape
        if not merges:
            return Compression(torch.arange(tokens, device=block.key.device).expand(batch, -1)), state
        if tokens < 2 * merges:
            raise BudgetError(
                f"keep={block.keep}: block {block.layer} would merge {merges} of {tokens} tokens; keep more"
            )
        logits = mean_logits(block.query, block.key, block.scaling)
        values = worth(logits)
        if state is None:
            state = values.new_full((batch, block.grid.patches), 1e9 if self.first_image else torch.inf)
        state = _filled(state, values)
        marks = least_of_windows(state, block.grid)
        marks[:, tokens - 1 :] = False
        values = penalised(values, marks[:, : tokens - 1])
        first = torch.full_like(values[:, :1], torch.inf)
        order = torch.cat([first, values], 1).argsort(dim=1, stable=True)
        merged, left = order[:, :merges], order[:, merges:]
        weights = _into_wrong_places(logits.gather(1, merged[..., None].expand(-1, -1, tokens)), merges)
        return Compression(left, added(left, merged, weights, tokens)), state.masked_fill(marks, torch.inf)


def _filled(buffer: Float[Tensor, "batch place"], values: Float[Tensor, "batch patch"]) -> Float[Tensor, "batch place"]:
    """Returns the buffer with the values in its free places, in order, as many as there are."""
    free = buffer != torch.inf
    number: Int[Tensor, "batch place"] = free.long().cumsum(1) - 1
    takes = free & (number < values.shape[1])
    return torch.where(takes, values.gather(1, number.clamp(0, values.shape[1] - 1)), buffer)


def _into_wrong_places(rows: Float[Tensor, "batch merged token"], merges: int) -> Float[Tensor, "batch merged left"]:
    """Returns the weights of merged tokens in the places of the sorted ones, from their logits for all tokens."""
    tokens = rows.shape[2]
    count = above_quantile(rows).sum(2).amax(1)
    best = rows.topk(int(count.max()), dim=2)
    chosen = torch.arange(best.values.shape[2], device=rows.device) < count[:, None, None]
    share = best.values.masked_fill(~chosen, -torch.inf).softmax(2)
    place = torch.where(best.indices < tokens - merges, best.indices, best.indices - merges)
    return torch.zeros_like(rows[..., merges:]).scatter_add_(2, place, share)
