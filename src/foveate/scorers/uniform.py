"""Control: patches spread evenly over the image, whatever it shows."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import VisionScorer
from foveate.core.needs import Need
from foveate.core.types import Trace
from foveate.functional.geometry import evenness


@dataclass(frozen=True)
class Uniform(VisionScorer):
    """Scores by rank in an order of the grid whose every prefix covers it evenly: a stride for any budget."""

    @property
    def needs(self) -> tuple[Need, ...]:
        return ()

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        return evenness(trace.grid.rows, trace.grid.columns).expand(trace.batch, -1)
