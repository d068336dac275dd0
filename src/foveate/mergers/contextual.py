"""Dropped patches merged into some of them."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.compression import Compression
from foveate.core.contracts import Merger
from foveate.core.errors import UnsupportedNeed
from foveate.core.needs import Keys, Need
from foveate.core.trace import EXTRA, PADDING, Trace
from foveate.core.values import Share
from foveate.functional.matching import nearest
from foveate.functional.mixing import group_rows, left_over, mean_rows, packed, unit_rows
from foveate.functional.ranking import listed


@dataclass(frozen=True)
class Contextual(Merger):
    """Merger that gives [CLS], the kept patches, and tokens into which the dropped patches are merged.

    Targets are dropped patches at even distances; every other dropped patch is merged into the target with the nearest
    key by cosine, averaged over heads. A merged token is the target plus the mean of the patches merged into it, so its
    norm is about twice that of others.

    Source: arXiv 2412.04467 (VisionZip).

    Attributes:
        share: Share of the budget that is merged tokens (10 of 64).
        layer: Layer of the tower whose keys are compared.
        cls: Whether [CLS] is the first token, as part of the budget.
    """

    share: Share = 5 / 32
    layer: int = -2
    cls: bool = True

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Keys(self.layer),)

    def merge(
        self,
        features: Float[Tensor, "batch source dim"],
        kept: Int[Tensor, "batch kept"],
        scores: Float[Tensor, "batch patch"],
        trace: Trace,
        budget: int,
    ) -> Compression:
        patches, sources = scores.shape[1], scores.shape[1] + self.cls
        if features.shape[1] < sources:
            raise UnsupportedNeed(f"{self}: this tower has no [CLS] to keep as a token; use cls=False")
        dropped, count = left_over(kept, scores), self._merged(budget)
        targets = listed(_spread(dropped, count), max(count, 1))[:, :count]
        keys = trace[Keys(self.layer)][:, :patches].mean(2)
        group = nearest(keys, targets) if count else torch.zeros_like(dropped, dtype=torch.long)
        chosen = unit_rows(targets, sources)
        others = dropped & (chosen[..., :patches].sum(1) == 0)
        joined = torch.zeros_like(chosen)
        joined[..., :patches] = mean_rows(group_rows(group, others, targets.shape[1]))
        first = kept.new_full((kept.shape[0], int(self.cls)), EXTRA)
        origin = torch.cat([first, kept, torch.where(targets == PADDING, PADDING, EXTRA)], 1)
        cls_row = unit_rows(torch.full_like(first, patches), sources)
        return packed(origin, torch.cat([cls_row, unit_rows(kept, sources), chosen + joined], 1))

    def reserved(self, keep: int) -> int:
        return self._merged(keep) + self.cls

    def _merged(self, keep: int) -> int:
        return math.floor(self.share * keep + 0.5)


def _spread(members: Bool[Tensor, "batch patch"], count: int) -> Bool[Tensor, "batch patch"]:
    """Returns about `count` of the members, evenly spaced from the first."""
    step = (members.sum(1, keepdim=True) // max(count, 1)).clamp(min=1)
    rank = members.long().cumsum(1) - 1
    return members & (rank % step == 0) & (rank < step * count)
