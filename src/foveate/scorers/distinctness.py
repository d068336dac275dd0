"""Distance of a patch to the means of its video and of its frame."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.needs import Features, Need
from foveate.core.trace import Trace
from foveate.functional.clips import frames_of, similarity_to_means


@dataclass(frozen=True)
class Distinctness(Scorer):
    """Scorer by how little a patch resembles the means of the video and of its frame.

    Features are those after the projector. An image is a video of one frame.

    Source: arXiv 2505.14454 (VidCom2).
    """

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Features(projected=True),)

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        of_video, of_frame = similarity_to_means(frames_of(trace[self.needs[0]], trace))
        return -(of_video + of_frame).flatten(1)
