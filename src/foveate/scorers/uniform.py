"""Control: an even grid of patches."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.trace import PADDING, Trace
from foveate.core.transfer import on_device
from foveate.functional.geometry import even


@dataclass(frozen=True)
class Uniform(Scorer):
    """Scorer by the rank in an order of the grid, each prefix of which covers the grid evenly."""

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        origins = trace.origins
        order = on_device(even(trace.views), origins.device)
        return order[origins.clamp(min=0)].masked_fill(origins == PADDING, -torch.inf)
