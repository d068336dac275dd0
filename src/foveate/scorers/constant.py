"""No reason at all: for selectors and mergers that look at features alone."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.trace import PADDING, Trace


@dataclass(frozen=True)
class Constant(Scorer):
    """Scores every patch alike."""

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        places = trace.places
        return torch.zeros(places.shape, device=places.device).masked_fill(places == PADDING, -torch.inf)
