"""Dropped patches gathered around those that the question names."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.compression import Compression
from foveate.core.contracts import Merger
from foveate.core.needs import AlignedPatches, AlignedWords, Need
from foveate.core.trace import EXTRA, PADDING, Trace
from foveate.core.transfer import on_device
from foveate.core.values import Natural, Share
from foveate.functional.mixing import group_rows, left_over, mean_rows, packed, unit_rows
from foveate.functional.ranking import marked, open_ended, top_k


@dataclass(frozen=True)
class TextCentres(Merger):
    """Merger that gives the kept patches, and tokens that gather the dropped ones around those most like the question.

    Centres are the dropped patches with the greatest mean cosine to the question's tokens, in raster order. In every
    round each other dropped patch joins a centre: that with the greatest sum, over the question's tokens, of the
    product of both cosines to the token. Every centre then grows by the mean of the patches that joined it; nothing is
    divided, so after three rounds its norm is about three times that of others. Cosines are those of CLIP without the
    tower's last norm.

    Source: arXiv 2601.22674 (VisionTrim, as in the authors' code).

    Attributes:
        share: Share of the budget that is centres (16 of 64).
        rounds: Number of rounds.
    """

    share: Share = 0.25
    rounds: Natural = 3

    @property
    def needs(self) -> tuple[Need, ...]:
        return (AlignedPatches(normed=False), AlignedWords())

    def merge(
        self,
        features: Float[Tensor, "batch source dim"],
        kept: Int[Tensor, "batch kept"],
        scores: Float[Tensor, "batch patch"],
        trace: Trace,
        budget: int,
    ) -> Compression:
        patches, words = (on_device(trace[need].double(), scores.device) for need in self.needs)
        text, dropped = F.normalize(words, dim=2), left_over(kept, scores)
        likeness = F.normalize(patches, dim=2) @ text.mT
        if not (count := self.reserved(budget)) or (not open_ended(dropped) and not dropped.any()):
            return Compression(kept)
        centres = top_k(likeness.sum(2).masked_fill(~dropped, -torch.inf), count)
        rows = unit_rows(centres, scores.shape[1]).double()
        others = dropped & ~marked(centres, scores.shape[1])
        for _ in range(self.rounds):
            affinity = likeness @ (F.normalize(rows @ patches, dim=2) @ text.mT).mT
            group = affinity.masked_fill((centres == PADDING)[:, None], -torch.inf).argmax(-1)
            rows = rows + mean_rows(group_rows(group, others, centres.shape[1]))
        origin = torch.cat([kept, torch.where(centres == PADDING, PADDING, EXTRA)], 1)
        return packed(origin, torch.cat([unit_rows(kept, scores.shape[1]), rows.float()], 1))

    def reserved(self, keep: int) -> int:
        return math.floor(self.share * keep + 0.5)
