"""Change of a patch since the frame before."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.needs import Features, Need
from foveate.core.trace import Trace
from foveate.functional.clips import check_frames, frames_of

_FIRST = 255.0  # of the first frame, above every change


@dataclass(frozen=True)
class FrameChange(Scorer):
    """Scorer by 1 - cosine of a patch and the same patch one frame earlier; patches of the first frame come first.

    Features are those after the projector. The frame before is the neighbour, whether its patch is kept or not. A
    video has at least two frames.

    Source: arXiv 2510.14624 (EVS, as in vLLM; the paper compares pixels).
    """

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Features(projected=True),)

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        check_frames(trace, self)
        clip = frames_of(trace[self.needs[0]], trace)
        change = 1 - F.cosine_similarity(clip[:, 1:], clip[:, :-1], dim=3)
        return torch.cat([torch.full_like(change[:, :1], _FIRST), change], 1).flatten(1)
