"""Distance of a token from its reconstruction by a few others."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.needs import Features, Fingerprint, Need, PatchStates
from foveate.core.trace import Trace
from foveate.core.transfer import on_device
from foveate.core.values import Count, Natural, Positive
from foveate.functional.matching import rows_at
from foveate.functional.spanning import drawn, furthest, unexplained


@dataclass(frozen=True)
class ReconstructionError(Scorer):
    """Scorer by the distance of a token from its ridge regression on a few tokens that are far from each other.

    The first of these tokens is random, the others follow by farthest-point sampling.

    Source: arXiv 2602.19870 (ApET).

    Attributes:
        basis: Number of the few tokens.
        ridge: Weight of the squared coefficients of the regression.
        seed: Seed of the random token, which also depends on the image; the authors draw it anew at every call.
        inside: Whether the states at a cut inside the language model are read instead of the features before the
            projector.
    """

    basis: Count = 10
    ridge: Positive = 1e-5
    seed: Natural = 0
    inside: bool = False

    @property
    def needs(self) -> tuple[Need, ...]:
        return (PatchStates() if self.inside else Features(), Fingerprint())

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        tokens, keys = (trace[need] for need in self.needs)
        basis = furthest(tokens, drawn(self.seed, keys, trace.real), trace.real, self.basis)
        real = on_device(trace.real, tokens.device)
        return unexplained(tokens, rows_at(tokens, basis), self.ridge).masked_fill(~real, -torch.inf)
