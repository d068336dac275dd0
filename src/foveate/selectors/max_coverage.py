"""Patches that cover the question's tokens and the image."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.needs import Features, Need, QuestionEmbeddings
from foveate.core.trace import Trace
from foveate.core.values import Positive
from foveate.functional.diversity import coverage
from foveate.functional.matching import cosine
from foveate.functional.ranking import in_raster_order


@dataclass(frozen=True)
class MaxCoverage(Selector):
    """Greedy selector of the patch that most increases the coverage of text tokens and patches; scores are ignored.

    A text token distributes one unit over the patches by a softmax of its cosines to the projected features, a patch by
    a softmax of its cosines to the features before the projector. Coverage is the largest part on a kept patch,
    averaged over the text tokens, plus `alpha` times the same average over the patches.

    Source: arXiv 2508.18264 (MMTok).

    Attributes:
        text_temperature: Temperature of the text tokens' softmax.
        vision_temperature: Temperature of the patches' softmax.
        alpha: Weight of the coverage of patches.
    """

    needs_keep: ClassVar[bool] = True
    static_count: ClassVar[bool] = True
    text_temperature: Positive = 0.02
    vision_temperature: Positive = 0.2
    alpha: float = 0.5

    @property
    def needs(self) -> tuple[Need, ...]:
        return (QuestionEmbeddings(), Features(True), Features())

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        words, projected, features = (trace[need].double() for need in self.needs)
        free = scores > -torch.inf
        text = _spread(words, projected, self.text_temperature, (words != 0).any(-1), free)
        vision = self.alpha * _spread(features, features, self.vision_temperature, free, free)
        weight = torch.ones_like(features[..., 0])
        chosen = coverage(torch.cat([text, vision], 1), weight, 0 * weight, free, keep)
        return in_raster_order(chosen, scores.shape[1])


def _spread(
    rows: Float[Tensor, "batch row dim"],
    patches: Float[Tensor, "batch patch dim"],
    temperature: float,
    real: Bool[Tensor, "batch row"],
    free: Bool[Tensor, "batch patch"],
) -> Float[Tensor, "batch row patch"]:
    """Returns the softmax over the free patches, divided by the number of real rows."""
    logits = (cosine(rows, patches) / temperature).masked_fill(~free[:, None], torch.finfo(rows.dtype).min)
    return logits.softmax(-1) * (real / real.sum(1, keepdim=True).clamp(min=1))[..., None]
