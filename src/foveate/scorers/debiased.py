"""A correction: scores less their mean over images."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.needs import Need
from foveate.core.trace import PADDING, Trace


@dataclass(frozen=True)
class Debiased(Scorer):
    """Scores of another scorer less what it gives to each place on average, whatever the image.

    What remains is what an image or a question changes; a preference for places is gone. Only for models that give all
    images the same grid of patches.

    Source: arXiv 2412.13180v1 and 2508.17807v1 (bias of position in attention, corrected by a trend over positions);
    the plain mean is ours.

    Attributes:
        scorer: What is corrected.
        mean: Its mean score of each patch, over other images than those that are compressed.
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
        places = trace.places.to(scores.device)
        mean = torch.tensor(self.mean, dtype=scores.dtype, device=scores.device)[places.clamp(min=0)]
        return scores - mean.masked_fill(places == PADDING, 0)
