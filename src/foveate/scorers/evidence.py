"""Oracle: the patches that show the evidence of the question."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.needs import EvidenceShare, Need
from foveate.core.trace import PADDING, Trace
from foveate.core.transfer import on_device
from foveate.functional.geometry import even


@dataclass(frozen=True)
class Evidence(Scorer):
    """Scorer that ranks the best patch of every thing first, then the second best of each, then an even grid.

    It shows what selection could achieve if it knew the evidence, and is no method. Questions without annotations keep
    an even grid.
    """

    @property
    def needs(self) -> tuple[Need, ...]:
        return (EvidenceShare(),)

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        share = trace[EvidenceShare()]
        rank = share.argsort(dim=-1, descending=True, stable=True).argsort(-1)
        turn = torch.where(share > 0, 2 - rank / share.shape[-1], 0.0)
        turn = turn.amax(1) if share.shape[1] else turn.sum(1)  # amax needs at least one thing
        origins = on_device(trace.origins, share.device)
        spread = on_device(even(trace.views), share.device)[origins.clamp(min=0)]
        return (turn + spread / (2 * share.shape[-1])).masked_fill(origins == PADDING, -torch.inf)
