"""Correction: scores minus their mean over images."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.needs import Need
from foveate.core.trace import PADDING, Trace
from foveate.core.transfer import on_device


@dataclass(frozen=True)
class Debiased(Scorer):
    """Scores of another scorer minus the mean score of each position over other images.

    The result depends on the image and the question, but not on a preference of the scorer for some positions. Images
    must all have the same grid of patches.

    Source: arXiv 2412.13180v1 and 2508.17807v1 (bias of position in attention, corrected by a trend over positions);
    subtracting the plain mean is an addition of this package.

    Attributes:
        scorer: The scorer that is corrected.
        mean: Its mean score of each patch, over images other than those that are compressed.
    """

    scorer: Scorer
    mean: tuple[float, ...] = field(repr=False)

    @property
    def needs(self) -> tuple[Need, ...]:
        return self.scorer.needs

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        if len(self.mean) != trace.patches:
            raise ValueError(
                f"a mean of {len(self.mean)} patches for images of {trace.patches}: compute it for this model, and "
                "compress images of one grid only"
            )
        scores = self.scorer.score(trace)
        origins = on_device(trace.origins, scores.device)
        mean = on_device(torch.tensor(self.mean, dtype=scores.dtype), scores.device)[origins.clamp(min=0)]
        return scores - mean.masked_fill(origins == PADDING, 0)
