"""Similarity of a patch and the question in the space that a contrastive tower shares with its text encoder.

Source: arXiv 2506.10967 (CDPruner) and arXiv 2409.10994 (TRIM), by their code. Both negate it: in
CLIP, patches that show what a text names are less similar to the text. CDPruner maps the cosine to 0..1; TRIM takes the
softmax of the dot product and reads only the first segment of the text.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from foveate.core.contracts import Scorer
from foveate.core.needs import AlignedPatches, AlignedText, Need
from foveate.core.trace import Trace
from foveate.core.transfer import on_device
from foveate.functional.scaling import min_max, softmax

_LIFT = 1e-6  # keeps the least relevant patch above 0, as in CDPruner's code


@dataclass(frozen=True)
class TextSimilarity(Scorer):
    """Scorer by the similarity of a patch and the question, averaged over the question's segments.

    Attributes:
        negated: Whether the least similar patches are kept; `negated=True, normalise="minmax"` is CDPruner's relevance.
        cosine: Whether similarity is the cosine or the dot product; `TextSimilarity(True, False, "softmax",
            truncated=True)` is TRIM's score.
        normalise: Normalisation per image: "minmax" maps to (almost) 0..1, "softmax" to a sum of 1, "none" to itself.
        truncated: Whether only the first segment of a long question is read.
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
        similarity = torch.einsum("bpd,bd->bp", patches, mean)
        scores, real = -similarity if self.negated else similarity, on_device(trace.real, similarity.device)
        match self.normalise:
            case "none":
                return scores
            case "softmax":
                return softmax(scores, real)
            case "minmax":
                return min_max(scores, real, _LIFT)
