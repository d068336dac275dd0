"""Shares of the budget for frames, by how they differ from the video."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.budget import Number, share_of
from foveate.core.contracts import Selector
from foveate.core.needs import Features, Need
from foveate.core.trace import Trace
from foveate.core.transfer import on_device
from foveate.core.values import Positive
from foveate.functional.clips import frames_of, similarity_to_means
from foveate.functional.ranking import listed
from foveate.functional.regions import rank_within


@dataclass(frozen=True)
class FrameShares(Selector):
    """Selector of the best scores of each frame, with larger budgets for frames that differ more from the video.

    A frame keeps the share r (1 + p - mean p) of its patches, where p is the softmax over the frames of the mean
    distance of their patches to the mean of the video. At the low temperature one frame may have nearly twice the
    share, and the others slightly less than r. Counts are rounded, half to even, and at least 1, so the sum is near the
    budget, not equal to it.

    Source: arXiv 2505.14454 (VidCom2).

    Attributes:
        keep: The share r; a count means its share of all patches.
        temperature: Divisor of the frames' scores in the softmax.
    """

    keep: Number
    temperature: Positive = 0.01

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Features(projected=True),)

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        weight = torch.ones_like(scores[:, :1], dtype=torch.double)
        if trace.frames > 1:
            of_video, _ = similarity_to_means(frames_of(trace[self.needs[0]], trace))
            weight = (-of_video.mean(2) / self.temperature).softmax(1).to(scores.device)
        share = share_of(self.keep, trace.patches) * (1 + weight - weight.mean(1, keepdim=True))
        size = trace.patches // trace.frames
        count = (share.clamp(max=1) * size).round().long().clamp(min=1)
        frame = on_device(trace.origins, scores.device).clamp(min=0) // size
        return listed((scores > -torch.inf) & (rank_within(scores, frame) < count.gather(1, frame)))

    def expected(self, keep: int, left: int | float, patches: int) -> int | float:
        return min(left, max(1, round(share_of(self.keep, patches) * patches)))
