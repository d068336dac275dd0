"""[CLS] as a token beside the kept patches."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.compression import Compression
from foveate.core.contracts import Merger
from foveate.core.errors import UnsupportedNeed
from foveate.core.trace import EXTRA, Trace
from foveate.functional.mixing import packed, unit_rows


@dataclass(frozen=True)
class WithCls(Merger):
    """Merger that gives [CLS], as part of the budget, and then the kept patches unchanged.

    Source: arXiv 2603.09480 (PruneSID).
    """

    def merge(
        self,
        features: Float[Tensor, "batch source dim"],
        kept: Int[Tensor, "batch kept"],
        scores: Float[Tensor, "batch patch"],
        trace: Trace,
        budget: int,
    ) -> Compression:
        patches = scores.shape[1]
        if features.shape[1] <= patches:
            raise UnsupportedNeed(f"{self}: this tower has no [CLS] to keep as a token; use Drop()")
        first = torch.full_like(kept[:, :1], patches)
        rows = unit_rows(torch.cat([first, kept], 1), patches + 1)
        return packed(torch.cat([torch.full_like(first, EXTRA), kept], 1), rows)

    def reserved(self, keep: int) -> int:
        return 1
