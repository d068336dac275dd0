"""A few pivots, and the tokens that are least similar to them."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.needs import Need, Role, TokenKeys, TokenRoles, TokenStates
from foveate.core.trace import Trace
from foveate.core.values import Count
from foveate.functional.matching import cosine, rows_at
from foveate.functional.ranking import listed, marked, ranked


@dataclass(frozen=True)
class LeastAlike(Selector):
    """Selector of some visual pivots, and for every pivot the tokens whose states are least similar to the pivot's.

    Pivots are the tokens with the largest keys (L1 norm over all heads), equally many of the image and of the question;
    those of the question are not kept. Each pivot in turn takes keep / (2 * pivots) of the remaining tokens, rounded
    down, so a budget of 192 keeps 196. The authors' order of pivots follows the hash table of a set; here visual pivots
    come first, and each kind is ordered by falling norm. Scores are ignored.

    Source: arXiv 2502.11494 (DART).

    Attributes:
        layer: Block of the language model whose keys are read: the one before the cut.
        pivots: Number of pivots of the image, and of the question.
    """

    needs_keep: ClassVar[bool] = True
    layer: int = 1
    pivots: Count = 4

    @property
    def needs(self) -> tuple[Need, ...]:
        return (TokenKeys(self.layer), TokenStates(), TokenRoles())

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        keys, states, roles = (trace[need] for need in self.needs)
        norms = keys.double().abs().sum((2, 3))
        visual = (roles == Role.VISUAL).long().argsort(dim=-1, descending=True, stable=True)[:, : scores.shape[1]]
        free = scores > -torch.inf
        first = ranked(norms.gather(1, visual).masked_fill(~free, -torch.inf), self.pivots)
        question = ranked(norms.masked_fill(roles != Role.QUESTION, -torch.inf), self.pivots)
        pivots = torch.cat([visual.gather(1, first.clamp(min=0)).where(first >= 0, -1), question], 1)
        states = states.double()
        similarity = cosine(rows_at(states, pivots), rows_at(states, visual)).masked_fill(
            pivots[..., None] < 0, torch.inf
        )
        chosen = marked(first, scores.shape[1])
        for similar in similarity.unbind(1):
            taken = ranked((-similar).masked_fill(~free | chosen, -torch.inf), keep // (2 * self.pivots))
            chosen = chosen | marked(taken, scores.shape[1])
        return listed(chosen)

    def expected(self, keep: int, left: int | float, patches: int) -> int | float:
        return min(left, self.pivots + 2 * self.pivots * (keep // (2 * self.pivots)))
