"""Whole frames, and of the frames between them the patches that changed most."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.errors import UnsupportedNeed
from foveate.core.needs import Features, Need
from foveate.core.trace import Trace
from foveate.functional.clips import check_frames, frames_of
from foveate.functional.ranking import ranked

_GROUP = 4  # frames


@dataclass(frozen=True)
class ChangedInGroups(Selector):
    """Selector of the first of every four frames, and of the patches of the others that are least like another frame.

    The second frame of a group of four is compared with the first, the fourth with the third, and the third with the
    first, each patch with the same patch. Each of the three keeps the share of its patches that the budget is of all.
    Kept patches are ordered by frame; in a frame that is not whole they ascend by similarity. No score is read. A
    video has at least two frames.

    Source: arXiv 2411.15024 (DyCoke, the part before the language model).

    Attributes:
        as_published: Whether the third frame of the last complete group stays whole, and a last frame that has no
            partner is left out, as in the authors' code, which needs five frames.
    """

    needs_keep: ClassVar[bool] = True
    as_published: bool = False

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Features(projected=True),)

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        check_frames(trace, self)
        if self.as_published and trace.frames <= _GROUP:
            raise UnsupportedNeed(
                f"{self} needs five frames, and this video has {trace.frames}: use as_published=False"
            )
        clip = frames_of(trace[self.needs[0]], trace).to(scores.device)
        size, frames = clip.shape[2], trace.frames - (trace.frames % 2 if self.as_published else 0)
        place = torch.full_like(scores.unflatten(1, (-1, size)), -torch.inf)
        for frame in range(frames):
            rank, count = torch.arange(size, device=scores.device).expand(len(scores), -1), size
            if (other := self._compared(frame, trace.frames)) is not None:
                similarity = F.cosine_similarity(clip[:, other], clip[:, frame], dim=2)
                rank, count = similarity.argsort(dim=1, stable=True).argsort(1), keep // trace.frames
            place[:, frame] = torch.where(rank < count, -(frame * size + rank).to(place), -torch.inf)
        return ranked(place.flatten(1).masked_fill(scores == -torch.inf, -torch.inf), scores.shape[1])

    def _compared(self, frame: int, frames: int) -> int | None:
        """Returns the frame that a frame is compared with; None if it stays whole."""
        if frame % 2:
            return frame - 1
        whole = frame % _GROUP == 0 or (self.as_published and frame >= frames - 2)
        return None if whole else frame - 2

    def expected(self, keep: int, left: int | float, patches: int) -> int | float:
        return left / _GROUP + (1 - 1 / _GROUP) * left * keep / patches
