"""Equal scores, for selectors and mergers that read features only."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.trace import Trace


@dataclass(frozen=True)
class Constant(Scorer):
    """Scorer that gives every patch the same score."""

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        real = trace.real
        return torch.zeros(real.shape, device=real.device).masked_fill(~real, -torch.inf)
