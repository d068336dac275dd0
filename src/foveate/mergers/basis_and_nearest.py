"""A few basis tokens in place of the worst kept ones, and dropped patches merged into the others."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.compression import Compression
from foveate.core.contracts import Merger
from foveate.core.needs import Fingerprint, Need
from foveate.core.trace import PADDING, Trace
from foveate.core.values import Count, Natural, Share
from foveate.functional.mixing import left_over, nearest_mean_rows, unit_rows
from foveate.functional.spanning import drawn, furthest


@dataclass(frozen=True)
class BasisAndNearest(Merger):
    """Merger that puts basis tokens at the kept patches of lowest score, and dropped patches into the other kept ones.

    The basis is that of `ReconstructionError` with the same `basis` and `seed`. The tokens of the basis are patches
    themselves, and if they were dropped, they are also merged. A kept patch that is not replaced becomes the mean of
    itself and the dropped patches nearest to it by cosine. At least one is not replaced, and none if nothing
    was dropped.

    Source: arXiv 2602.19870 (ApET, as in the authors' code).

    Attributes:
        basis: Number of basis tokens.
        seed: Seed of the first one.
        mix: Weight of the basis token; the patch that it replaces has the rest.
        order: Order in which the replaced patches receive the basis: "raster", or "score" for falling scores.
    """

    basis: Count = 10
    seed: Natural = 0
    mix: Share = 1.0
    order: Literal["raster", "score"] = "raster"

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Fingerprint(),)

    def merge(
        self,
        features: Float[Tensor, "batch source dim"],
        kept: Int[Tensor, "batch kept"],
        scores: Float[Tensor, "batch patch"],
        trace: Trace,
        budget: int,
    ) -> Compression:
        patches = scores.shape[1]
        there, real = trace.real, kept != PADDING
        tokens = features[:, :patches]
        basis = furthest(tokens, drawn(self.seed, trace[Fingerprint()], there), there, self.basis)
        held = scores.gather(1, kept.clamp(min=0)).masked_fill(~real, -torch.inf)
        rank = held.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        first = (real.sum(1, keepdim=True) - basis.shape[1]).clamp(min=1)
        dropped = left_over(kept, scores)
        replaced = real & (rank >= first) & dropped.any(1, keepdim=True)
        number = rank - first if self.order == "score" else replaced.long().cumsum(1) - 1
        entering = unit_rows(basis.gather(1, number.clamp(0, basis.shape[1] - 1)), patches)
        mixed = self.mix * entering + (1 - self.mix) * unit_rows(kept, patches)
        joined = nearest_mean_rows(tokens, kept.masked_fill(replaced, PADDING), dropped)
        return Compression(kept, torch.where(replaced[..., None], mixed, joined))
