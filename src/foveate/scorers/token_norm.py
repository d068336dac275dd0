"""The length of a patch's features.

Source: arXiv 2309.16588 (Vision Transformers Need Registers): patches of outlying norm hold the image as a whole
rather than what lies at their place. Whether that makes them worth keeping is what this scorer asks.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.needs import Features, Need
from foveate.core.trace import Trace


@dataclass(frozen=True)
class TokenNorm(Scorer):
    """Scores a patch by the L_p norm of its features.

    Attributes:
        p: Order of the norm, at most infinity.
        projected: After the projector, or as the tower gives them.
    """

    p: float = 2.0
    projected: bool = False

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Features(self.projected),)

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        return torch.linalg.vector_norm(trace[self.needs[0]], self.p, dim=2, dtype=torch.float32)
