"""How alike a patch and the question are in the space that the tower's contrastive twin shares with text.

Source: arXiv 2506.10967 (CDPruner) and arXiv 2409.10994 (TRIM), by their code. Both negate: in CLIP the patches that
show what a text names are, against intuition, the ones less alike. CDPruner takes the cosine from 0 to 1, TRIM the
softmax of the plain dot product and only the text's first window.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from foveate.core.contracts import Scorer
from foveate.core.needs import AlignedPatches, AlignedText, Need
from foveate.core.trace import PADDING, Trace
from foveate.functional.scaling import min_max, softmax

_LIFT = 1e-6  # keeps the least relevant patch above 0, as CDPruner does


@dataclass(frozen=True)
class TextSimilarity(Scorer):
    """Scores a patch by its likeness to the question, averaged over the question's segments.

    Attributes:
        negated: Keep the patches least alike: `negated=True, normalise="minmax"` is CDPruner's relevance.
        cosine: Cosine, or else the dot product: `TextSimilarity(True, False, "softmax", truncated=True)` is TRIM's.
        normalise: Over the patches of each image: "minmax" from (almost) 0 to 1, "softmax" to a sum of 1, or "none".
        truncated: Read the first window of a long question only.
    """

    negated: bool = False
    cosine: bool = True
    normalise: Literal["none", "minmax", "softmax"] = "none"
    truncated: bool = False

    @property
    def needs(self) -> tuple[Need, ...]:
        return AlignedPatches(), AlignedText(self.truncated)

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        patches = trace[AlignedPatches()].float()
        text = trace[AlignedText(self.truncated)].to(patches)
        segments = (text != 0).any(2).sum(1)
        if self.cosine:
            patches, text = F.normalize(patches, dim=2), F.normalize(text, dim=2)
        mean = text.sum(1) / segments.clamp(min=1)[:, None]
        likeness = torch.einsum("bpd,bd->bp", patches, mean)
        scores, there = -likeness if self.negated else likeness, trace.places.to(likeness.device) != PADDING
        match self.normalise:
            case "none":
                return scores
            case "softmax":
                return softmax(scores, there)
            case "minmax":
                return min_max(scores, there, _LIFT)
