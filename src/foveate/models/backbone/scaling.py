"""Settings of an image processor that give an image fewer visual tokens."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL.Image import Image, Resampling

from foveate.core.arrangement import Grid


@dataclass(frozen=True)
class Scaling:
    """Settings with which a family's image processor gives an image about as many visual tokens as wanted.

    Attributes:
        patches: Number of patches that the image has then.
        options: Options of the image processor, besides those of the family.
        size: Height and width that the image is resized to first; None leaves it as it is.
        whole: Whether the image has no tiles besides the one that shows the whole of it.
        grid: Grid that processed pixels are resized to; None leaves them as they are.
    """

    patches: int
    options: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    whole: bool = False
    grid: Grid | None = None

    def together(self, other: "Scaling") -> bool:
        """Returns whether one call of the image processor can prepare the images of both."""
        mine, theirs = ((one.options, one.whole, one.grid) for one in (self, other))
        return mine == theirs

    def resized(self, image: Image) -> Image:
        """Returns an image at the size that it is resized to first."""
        if self.size is None or self.size == (image.height, image.width):
            return image
        height, width = self.size
        return image.resize((width, height), Resampling.BICUBIC)


def nearest(found: Iterable[Scaling], patches: float) -> Scaling:
    """Returns the scaling whose number of patches is nearest to a number; of two, the smaller one."""
    return min(found, key=lambda one: (abs(one.patches - patches), one.patches))
