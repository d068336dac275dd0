"""Quotas for chunks of the raster order by their mean score."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from foveate.core.contracts import Selector
from foveate.core.trace import PADDING, Trace
from foveate.core.transfer import on_device
from foveate.core.values import Count
from foveate.functional.ranking import ranked
from foveate.functional.regions import by_group, group_means, proportional, rank_within, runs


@dataclass(frozen=True)
class ChunkQuota(Selector):
    """Selector that splits the budget among chunks of the raster order by mean score and keeps the best of each.

    Quotas are rounded down, and the remainder goes one by one to the chunks with the greatest means. A chunk with a
    quota above its length keeps all its patches, and the surplus is lost. Kept patches are ordered by chunk, then by
    falling score; a chunk that is kept whole stays in raster order, as in the authors' code. If the number of chunks
    does not divide the number of patches, lengths differ by at most one. Scores must not be negative.

    Source: arXiv 2510.02912 (HoloV, as in the authors' code; its variance term multiplies all means by the same number
    and is left out).

    Attributes:
        chunks: Number of chunks of each view.
    """

    needs_keep: ClassVar[bool] = True
    chunks: Count = 16

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        real = scores > -torch.inf
        chunk = runs(on_device(trace.origins, scores.device), trace.views, self.chunks)
        means = group_means(scores.double().clamp(min=0), chunk, real, self.chunks * len(trace.views))
        quota = proportional(means, keep)
        rank, given = rank_within(scores, chunk), quota.gather(1, chunk)
        length = torch.zeros_like(quota).scatter_add_(1, chunk, real.long()).gather(1, chunk)
        place = torch.where(given >= length, rank_within(torch.where(real, 0.0, -torch.inf), chunk), rank)
        order = by_group(chunk, place, real & (rank < given))
        nothing = (order == -torch.inf).all(1, keepdim=True)  # all scores are 0, so the quotas went to empty chunks
        kept = ranked(torch.where(nothing, scores.double(), order), keep)
        return F.pad(kept, (0, keep - kept.shape[1]), value=PADDING)  # a merger can fill the lost surplus
