"""A share of the remaining tokens, by score."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.budget import Number, share_of
from foveate.core.contracts import Selector
from foveate.core.trace import Trace
from foveate.functional.ranking import listed
from foveate.functional.regions import numbered, rank_within

_SLACK = 1e-9  # for products that miss a whole number by their rounding


@dataclass(frozen=True)
class TopShare(Selector):
    """Selector of a share of the remaining tokens, raised to a power and rounded.

    Source: arXiv 2412.13180 (FEATHER, whose second cut squares the share of the first); arXiv 2505.21334 (HoliTom)
    and 2602.08024 (FlashVID), which keep a share of what is left; arXiv 2412.16117 (PruneVid), of each frame.

    Attributes:
        keep: The share; a count means its share of all patches.
        power: Exponent of the share.
        rounded: Direction of rounding; "nearest" rounds halves to even numbers.
        per_view: Whether the share is that of the tokens of each view, such as a frame, of which then none may remain.
    """

    static_count: ClassVar[bool] = True
    keep: Number
    power: int | float = 2
    rounded: Literal["down", "nearest", "up"] = "down"
    per_view: bool = False

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        real = scores > -torch.inf
        origins = trace.origins.to(scores.device)
        view = numbered(origins, trace.views)[0] if self.per_view else torch.zeros_like(origins)
        group = torch.where(real, view, len(trace.views))
        left = torch.zeros(len(scores), len(trace.views) + 1, dtype=torch.double, device=scores.device)
        count = self._rounded(left.scatter_add_(1, group, real.double()) * self._share(trace.patches)).long()
        count = count if self.per_view else count.clamp(min=1)
        return listed(real & (rank_within(scores, group) < count.gather(1, group)))

    def expected(self, keep: int, left: int | float, patches: int) -> int | float:
        return max(1, int(self._rounded(torch.tensor(left * self._share(patches), dtype=torch.double))))

    def _share(self, patches: int) -> float:
        return share_of(self.keep, patches) ** self.power

    def _rounded(self, number: Tensor) -> Tensor:
        match self.rounded:
            case "down":
                return (number + _SLACK).floor()
            case "up":
                return (number - _SLACK).ceil()
        return number.round()
