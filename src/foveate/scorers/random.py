"""Control: patches at random."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.needs import Fingerprint, Need
from foveate.core.trace import PADDING, Trace
from foveate.core.values import Natural


@dataclass(frozen=True)
class Random(Scorer):
    """Independent uniform scores, fixed by the pixel values and `seed`: batches and reruns do not change them.

    Pixels in half precision are other values, so they draw other patches.
    """

    seed: Natural = 0

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Fingerprint(),)

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        images = trace[Fingerprint()]
        rows = [np.random.default_rng([self.seed, key]).random(trace.patches) for key in images.tolist()]
        scores = torch.from_numpy(np.stack(rows)).to(images.device, torch.float32)
        places = trace.places.to(images.device)
        return scores.gather(1, places.clamp(min=0)).masked_fill(places == PADDING, -torch.inf)
