"""Correction: patches whose features have an outlying norm are ranked last.

Source: arXiv 2309.16588v2 (patches of high norm hold global information and receive attention); Tukey 1977,
"Exploratory data analysis" (the rule for outliers).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.needs import Features, Need
from foveate.core.trace import Trace
from foveate.core.transfer import on_device
from foveate.core.values import Positive
from foveate.functional.outliers import outlying


@dataclass(frozen=True)
class WithoutSinks(Scorer):
    """Scores of another scorer, with all sinks ranked below all other patches, in unchanged order.

    Attributes:
        scorer: The scorer that is corrected.
        factor: Outlier factor; see `foveate.bias.metrics.sink_share`.
    """

    scorer: Scorer
    factor: Positive = 1.5

    @property
    def needs(self) -> tuple[Need, ...]:
        return tuple(dict.fromkeys((*self.scorer.needs, Features())))

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        scores = self.scorer.score(trace)
        norms = trace[Features()].float().norm(dim=-1).to(scores.device)
        real = on_device(trace.real, scores.device) & (scores > -torch.inf)
        sinks = outlying(norms.masked_fill(~real, -torch.inf), self.factor) & real
        lowest = scores.masked_fill(~real, torch.inf).amin(1, keepdim=True)
        below = torch.searchsorted(scores.sort(dim=-1).values, scores.contiguous())  # equal scores stay equal
        return torch.where(sinks, lowest + below - scores.shape[1] - 1, scores)
