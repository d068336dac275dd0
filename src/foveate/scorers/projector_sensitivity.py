"""Change of the projected features for small changes of a patch's features.

Source: arXiv 2509.24837 (ZOO-Prune), whose code draws new directions for every image, without a seed, and casts the
changed features to float16, so that its score is partly rounding noise.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.needs import Need, Sensitivity
from foveate.core.trace import Trace
from foveate.core.values import Count, Natural, Positive


@dataclass(frozen=True)
class ProjectorSensitivity(Scorer):
    """Scorer by the mean change of a patch's projected features along random directions; see `Sensitivity`.

    Attributes:
        directions: Number of directions.
        step: Length of a step.
        seed: Seed of the directions, which are the same for all images.
    """

    directions: Count = 64
    step: Positive = 0.01
    seed: Natural = 0

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Sensitivity(self.directions, self.step, self.seed),)

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        return trace[self.needs[0]]
