"""Control: random patches."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.needs import Fingerprint, Need
from foveate.core.trace import PADDING, Trace
from foveate.core.transfer import on_device
from foveate.core.values import Natural


@dataclass(frozen=True)
class Random(Scorer):
    """Scorer with independent uniform scores that depend on the pixel values and a seed, not on batches or reruns.

    Half precision changes the pixel values and with them the scores.

    Attributes:
        seed: The seed.
    """

    seed: Natural = 0

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Fingerprint(),)

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        images = trace[Fingerprint()].tolist()
        rows = [np.random.default_rng([self.seed, key]).random(trace.patches) for key in images]
        origins = trace.origins
        scores = on_device(torch.from_numpy(np.stack(rows)).float(), origins.device)
        return scores.gather(1, origins.clamp(min=0)).masked_fill(origins == PADDING, -torch.inf)
