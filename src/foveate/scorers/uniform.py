"""Control: patches spread evenly over the image, whatever it shows."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.trace import PADDING, Trace
from foveate.functional.geometry import even


@dataclass(frozen=True)
class Uniform(Scorer):
    """Scores by rank in an order of the grid whose every prefix covers it evenly: a stride for any budget."""

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        places = trace.places
        return even(trace.views).to(places.device)[places.clamp(min=0)].masked_fill(places == PADDING, -torch.inf)
