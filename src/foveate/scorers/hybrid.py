"""Several reasons at once."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.needs import Need
from foveate.core.trace import PADDING, Trace
from foveate.functional.scaling import min_max, rank_share, softmax


@dataclass(frozen=True)
class Hybrid(Scorer):
    """Weighted sum of several scorers, each brought to a common scale first.

    Scorers of the vision side and of the prompt may be mixed: inside a `DecoderCompressor` the former are carried to
    its block.

    Attributes:
        scorers: The parts.
        weights: One each; empty means equal.
        normalise: The common scale, per image: "rank" is the share of patches with a lower score (ties share their
            mean rank), "minmax" runs from 0 to 1, "softmax" sums to 1, "none" leaves the scores as they are.
    """

    scorers: tuple[Scorer, ...]
    weights: tuple[float, ...] = ()
    normalise: Literal["rank", "minmax", "softmax", "none"] = "rank"

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
        there = (trace.places != PADDING).to(parts[0].device)
        return torch.stack([w * self._scaled(s, there) for w, s in zip(weights, parts, strict=True)]).sum(0)

    def _scaled(
        self, scores: Float[Tensor, "batch patch"], there: Bool[Tensor, "batch patch"]
    ) -> Float[Tensor, "batch patch"]:
        match self.normalise:
            case "none":
                return scores
            case "softmax":
                return softmax(scores, there)
            case "minmax":
                return min_max(scores, there)
            case "rank":
                return rank_share(scores, there)
