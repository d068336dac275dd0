"""Nothing becomes of them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Merger
from foveate.core.types import Compression, Trace


@dataclass(frozen=True)
class Drop(Merger):
    """Every token is one kept patch, unchanged."""

    def merge(
        self, features: Float[Tensor, "batch patch dim"], kept: Int[Tensor, "batch kept"], trace: Trace
    ) -> Compression:
        return Compression(kept, kept[..., None], torch.ones(*kept.shape, 1, device=kept.device))
