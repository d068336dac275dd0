"""Weighted sums of scorers."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.needs import Need
from foveate.core.trace import Trace
from foveate.core.transfer import on_device
from foveate.functional.scaling import min_max, rank_share, softmax, unit_length


@dataclass(frozen=True)
class Hybrid(Scorer):
    """Weighted sum of several scorers after normalising each.

    A `DecoderCompressor` may mix scorers of the vision side with scorers of the prompt.

    Attributes:
        scorers: The scorers.
        weights: One weight per scorer; empty means equal weights.
        normalise: Normalisation per image: "rank" is the share of patches with a lower score (ties share their mean
            rank), "minmax" maps to 0..1, "softmax" maps to a sum of 1, "unit" maps to a Euclidean length of 1, "none"
            leaves the scores unchanged.
    """

    scorers: tuple[Scorer, ...]
    weights: tuple[float, ...] = ()
    normalise: Literal["rank", "minmax", "softmax", "unit", "none"] = "rank"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights and len(self.weights) != len(self.scorers):
            raise ValueError(f"{len(self.weights)} weights for {len(self.scorers)} scorers: give one each, or none")

    @property
    def needs(self) -> tuple[Need, ...]:
        return tuple(dict.fromkeys(need for scorer in self.scorers for need in scorer.needs))

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        weights = self.weights or (1 / len(self.scorers),) * len(self.scorers)
        parts = [scorer.score(trace) for scorer in self.scorers]
        real = on_device(trace.real, parts[0].device)
        return torch.stack([w * self._normalised(s, real) for w, s in zip(weights, parts, strict=True)]).sum(0)

    def _normalised(
        self, scores: Float[Tensor, "batch patch"], real: Bool[Tensor, "batch patch"]
    ) -> Float[Tensor, "batch patch"]:
        match self.normalise:
            case "none":
                return scores
            case "softmax":
                return softmax(scores, real)
            case "minmax":
                return min_max(scores, real)
            case "unit":
                return unit_length(scores, real)
            case "rank":
                return rank_share(scores, real)
