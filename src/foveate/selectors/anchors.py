"""Patches that an earlier layer attends to, their neighbours, and the best of the rest."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.needs import Need, ReceivedRows
from foveate.core.trace import Trace
from foveate.core.transfer import on_device
from foveate.core.values import Share
from foveate.functional.ranking import marked, ranked, top_k
from foveate.functional.regions import with_neighbours


@dataclass(frozen=True)
class Anchors(Selector):
    """Selector of the patches that receive most attention in one layer, their neighbours, and then the best scores.

    There are alpha * keep / 5 anchors (rounded, halves to even). The four neighbours are found by patch number, so the
    left neighbour of a row's first patch is the last patch of the row above.

    Source: arXiv 2508.00553 (HiPrune).

    Attributes:
        alpha: Share of the budget that anchors and their neighbours get.
        layer: Layer of the tower, 0-based, negative from the end. The authors count from 1.
    """

    needs_keep: ClassVar[bool] = True
    static_count: ClassVar[bool] = True
    alpha: Share = 0.1
    layer: int = 8

    @property
    def needs(self) -> tuple[Need, ...]:
        return (ReceivedRows(self.layer),)

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        real = scores > -torch.inf
        received = trace[ReceivedRows(self.layer)].mean(1).masked_fill(~real, -torch.inf)
        anchors = marked(ranked(received, round(keep * self.alpha / 5)), scores.shape[1])
        first = with_neighbours(anchors, on_device(trace.origins, scores.device), trace.views) & real
        return top_k(scores.masked_fill(first, torch.inf), keep)
