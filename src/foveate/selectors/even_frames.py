"""Control: fewer frames."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.trace import Trace
from foveate.functional.clips import check_frames
from foveate.functional.ranking import listed


@dataclass(frozen=True)
class EvenFrames(Selector):
    """Selector of whole frames at even distances, as many as come nearest to the budget and at least one.

    A video has at least two frames.
    """

    needs_keep: ClassVar[bool] = True

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        check_frames(trace, self)
        size = trace.patches // trace.frames
        count = max(1, (2 * keep + size) // (2 * size))
        middles = (2 * torch.arange(count, device=scores.device) + 1) * trace.frames // (2 * count)
        whole = torch.zeros(trace.frames, dtype=torch.bool, device=scores.device).index_fill_(0, middles, True)
        return listed((scores > -torch.inf) & whole.repeat_interleave(size))
