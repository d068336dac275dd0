"""What is dropped is added to its neighbours, by weight."""

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
    """To every kept patch its nearest other patches are added, kept or not, each times its score.

    Nearest by cosine of the keys, heads concatenated. The weights are not normalised (in the paper they are, in the
    authors' code not). Last comes one more token: the sum of the dropped patches, each times its score.

    Source: arXiv 2403.15388 (PruMerge, as in the authors' code).

    Attributes:
        neighbours: How many are added to one patch.
        layer: Of the tower, whose keys say what is near.
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
