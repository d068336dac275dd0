"""Controls: colour saturation, contrast and edges of a patch, computed from its pixels without a network.

A method that is no better than these controls says nothing about attention.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.needs import Need, PixelStatistic
from foveate.core.trace import Trace


class _PixelFilter(Scorer):
    """Base of scorers by a statistic of the pixels."""

    statistic: ClassVar[PixelStatistic]

    @property
    def needs(self) -> tuple[Need, ...]:
        return (self.statistic,)

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        return trace[self.statistic]


@dataclass(frozen=True)
class Saturation(_PixelFilter):
    """Scorer by the mean, over the pixels of a patch, of max(R, G, B) - min(R, G, B)."""

    statistic = PixelStatistic("saturation")


@dataclass(frozen=True)
class Contrast(_PixelFilter):
    """Scorer by the standard deviation of luminance (Rec. 601) over the pixels of a patch."""

    statistic = PixelStatistic("contrast")


@dataclass(frozen=True)
class Edges(_PixelFilter):
    """Scorer by the mean length of the gradient of luminance (Rec. 601) over the pixels of a patch.

    The gradient is computed over the tower's whole input image, so edges between patches count.
    """

    statistic = PixelStatistic("edges")
