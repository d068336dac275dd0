"""Length of features, passed on to similar patches."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.needs import Features, Need
from foveate.core.trace import Trace
from foveate.core.values import Natural, Positive
from foveate.functional.graph import propagated


@dataclass(frozen=True)
class PropagatedNorm(Scorer):
    """Scorer by the length of features after some steps along the graph of similar patches, per neighbour.

    Features are those after the projector. Each view of an image is a graph of its own. Patches that are like many
    others share what they receive with them, so a patch of each kind has a high score.

    Source: arXiv 2501.02268 (G-Prune).

    Attributes:
        least: Least cosine of neighbours.
        temperature: Divisor of the cosines in the softmax over neighbours.
        steps: Number of steps.
    """

    least: float = 0.5
    temperature: Positive = 0.03
    steps: Natural = 5

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Features(projected=True),)

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        views = trace[self.needs[0]].split([view.patches for view in trace.views], 1)
        return torch.cat([propagated(view, self.least, self.temperature, self.steps) for view in views], 1)
