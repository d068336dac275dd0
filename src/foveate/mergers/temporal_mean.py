"""Control: frames averaged over time."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.budget import Number, share_of
from foveate.core.compression import Compression
from foveate.core.contracts import Merger
from foveate.core.trace import Trace
from foveate.functional.clips import check_frames


@dataclass(frozen=True)
class TemporalMean(Merger):
    """Merger that makes one frame of each run of consecutive frames, the mean of each patch over the run.

    There are as many runs as come nearest to the budget, and at least one, of as equal lengths as possible. A token
    takes the position of its patch in the first frame of the run. A video has at least two frames. The choice of the
    selector is not read.

    Attributes:
        keep: The budget: a share of the patches, or a count.
    """

    makes_all: ClassVar[bool] = True
    keep: Number

    def merge(
        self,
        features: Float[Tensor, "batch source dim"],
        kept: Int[Tensor, "batch kept"],
        scores: Float[Tensor, "batch patch"],
        trace: Trace,
        budget: int,
    ) -> Compression:
        check_frames(trace, self)
        frames, size = trace.frames, trace.patches // trace.frames
        runs = min(frames, max(1, int(share_of(self.keep, trace.patches) * frames + 0.5)))
        run = torch.arange(frames, device=features.device) * runs // frames
        member = (run == torch.arange(runs, device=run.device)[:, None]).float()
        rows = torch.kron(member / member.sum(1, keepdim=True), torch.eye(size, device=run.device))
        first = member.argmax(1, keepdim=True) * size + torch.arange(size, device=run.device)
        return Compression(first.flatten().expand(len(scores), -1), rows.expand(len(scores), -1, -1))

    def extra(self, dropped: int) -> int:
        return round(share_of(self.keep, dropped) * dropped)
