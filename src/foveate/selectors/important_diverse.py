"""The best patches, and the least similar ones of the rest."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.needs import Features, Need
from foveate.core.trace import Trace
from foveate.core.values import Share
from foveate.functional.diversity import thinned
from foveate.functional.matching import cosine
from foveate.functional.ranking import listed, marked, ranked


@dataclass(frozen=True)
class ImportantDiverse(Selector):
    """Selector of a share of the budget by score; the list of all others, by falling score, is thinned until it fits.

    Each round of `thinned` removes the eight patches at even indices of the list that are most similar to one at an odd
    index. Rounds are smaller where the authors' code fails: with an odd number of patches, or few left to remove.
    Similarities are float64, because the order of the list decides which patches are compared.

    Source: arXiv 2412.01818, later than v1 (VisPruner).

    Attributes:
        important_ratio: Share of the budget, rounded down, that is kept by score.
    """

    needs_keep: ClassVar[bool] = True
    static_count: ClassVar[bool] = True
    important_ratio: Share = 0.5

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Features(),)

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        important = int(keep * self.important_ratio)
        order = ranked(scores, scores.shape[1])
        stays = marked(order[:, :important], scores.shape[1])
        if keep > important:
            features = trace[Features()].double()
            diverse = thinned(cosine(features, features), order[:, important:], keep - important)
            stays |= marked(diverse, scores.shape[1])
        return listed(stays, keep)
