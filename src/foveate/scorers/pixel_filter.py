"""Controls: how colourful, how contrasty and how rich in edges a patch is, by its pixels alone.

No network takes part, so what chooses patches no better than these says nothing about attention.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.needs import Need, PixelStatistic
from foveate.core.trace import Trace


class _PixelFilter(Scorer):
    """A scorer whose score is a statistic of pixels."""

    statistic: ClassVar[PixelStatistic]

    @property
    def needs(self) -> tuple[Need, ...]:
        return (self.statistic,)

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        return trace[self.statistic]


@dataclass(frozen=True)
class Saturation(_PixelFilter):
    """Scores a patch by the mean, over its pixels, of max(R, G, B) - min(R, G, B)."""

    statistic = PixelStatistic("saturation")


@dataclass(frozen=True)
class Contrast(_PixelFilter):
    """Scores a patch by the standard deviation, over its pixels, of luminance (Rec. 601)."""

    statistic = PixelStatistic("contrast")


@dataclass(frozen=True)
class Edges(_PixelFilter):
    """Scores a patch by the mean, over its pixels, of the length of the gradient of luminance (Rec. 601).

    Central differences over the whole image that the tower sees, so that edges between patches count.
    """

    statistic = PixelStatistic("edges")
