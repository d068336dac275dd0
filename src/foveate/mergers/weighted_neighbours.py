"""Patches added to their nearest kept patches, by weight."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.compression import Compression
from foveate.core.contracts import Merger
from foveate.core.needs import Keys, Need
from foveate.core.trace import Trace
from foveate.core.values import Natural
from foveate.functional.matching import neighbours
from foveate.functional.mixing import appended, left_over, unit_rows


@dataclass(frozen=True)
class WeightedNeighbours(Merger):
    """Merger that adds to every kept patch its nearest other patches, kept or dropped, each times its score.

    Nearest is by cosine of the keys, with heads concatenated. The weights are not normalised: the paper normalises
    them, the authors' code does not. The last token is the sum of the dropped patches, each times its score.

    Source: arXiv 2403.15388 (PruMerge, as in the authors' code).

    Attributes:
        neighbours: Number of patches that are added to each kept patch.
        layer: Layer of the tower whose keys are compared.
    """

    neighbours: Natural = 32
    layer: int = -1

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
        real = scores != -torch.inf
        weights = torch.where(real, scores, 0).float()[:, None]
        keys = trace[Keys(self.layer)][:, : scores.shape[1]].flatten(2)
        near = neighbours(keys, kept, real, self.neighbours)
        rows = unit_rows(kept, scores.shape[1])
        added = torch.zeros_like(rows).scatter_(2, near, 1) * weights * (kept >= 0)[..., None]
        dropped = left_over(kept, scores)[:, None]
        return appended(kept, rows + added, dropped * weights, dropped.any(-1))

    def extra(self, dropped: int) -> int:
        return int(dropped > 0)
