"""A correction: patches whose features have an outlying norm come last.

Source: arXiv 2309.16588v2 (patches of high norm hold the image as a whole, and draw attention); Tukey 1977,
"Exploratory data analysis" (the rule for outliers).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.needs import Features, Need
from foveate.core.trace import PADDING, Trace
from foveate.core.values import Positive
from foveate.functional.outliers import outlying


@dataclass(frozen=True)
class WithoutSinks(Scorer):
    """Scores of another scorer, with all sinks below all other patches, in the order that they had.

    Attributes:
        scorer: What is corrected.
        factor: As in `foveate.bias.metrics.sink_share`.
    """

    scorer: Scorer
    factor: Positive = 1.5

    @property
    def needs(self) -> tuple[Need, ...]:
        return tuple(dict.fromkeys((*self.scorer.needs, Features())))

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        scores = self.scorer.score(trace)
        norms = trace[Features()].float().norm(dim=-1).to(scores.device)
        there = (trace.places != PADDING).to(scores.device) & (scores > -torch.inf)
        sinks = outlying(norms.masked_fill(~there, -torch.inf), self.factor) & there
        lowest = scores.masked_fill(~there, torch.inf).amin(1, keepdim=True)
        below = torch.searchsorted(scores.sort(dim=-1).values, scores.contiguous())  # equal scores stay equal
        return torch.where(sinks, lowest + below - scores.shape[1] - 1, scores)
