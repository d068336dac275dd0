"""Pixel filters: one number per patch from the image alone, without a network."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from foveate.core.transfer import on_device

_REC_601 = (0.299, 0.587, 0.114)  # weights of R, G and B in luminance

Image = Float[Tensor, "image 3 height width"]
PerPatch = Float[Tensor, "image patch"]


def saturation(image: Image, sides: tuple[int, int]) -> PerPatch:
    """Returns the mean, over the pixels of each patch, of max(R, G, B) - min(R, G, B).

    Args:
        image: RGB in any unit, which is the unit of the result.
        sides: Height and width of a patch in pixels; patches are in raster order. A remainder at the right or bottom
            that is smaller than a patch is ignored.
    """
    return _patches(image.amax(1) - image.amin(1), sides).mean(-1)


def contrast(image: Image, sides: tuple[int, int]) -> PerPatch:
    """Returns the population standard deviation of luminance (Rec. 601) over the pixels of each patch.

    Args:
        image: See `saturation`.
        sides: See `saturation`.
    """
    return _patches(luminance(image), sides).std(-1, correction=0)


def edges(image: Image, sides: tuple[int, int]) -> PerPatch:
    """Returns the mean, over the pixels of each patch, of the length of the gradient of luminance (Rec. 601).

    The gradient is computed over the whole image, so edges between patches count: central differences per pixel,
    one-sided differences at the border of the image.

    Args:
        image: See `saturation`.
        sides: See `saturation`.
    """
    down, right = torch.gradient(luminance(image), dim=(1, 2))
    return _patches((down.square() + right.square()).sqrt(), sides).mean(-1)


FILTERS: Mapping[str, Callable[[Tensor, tuple[int, int]], Tensor]] = {
    "saturation": saturation,
    "contrast": contrast,
    "edges": edges,
}
"""Filters by the names of `core.needs.PixelStatistic`."""


def luminance(image: Image) -> Float[Tensor, "image height width"]:
    """Returns the luminance of Rec. 601: 0.299 R + 0.587 G + 0.114 B."""
    return torch.einsum("ichw,c->ihw", image, on_device(torch.tensor(_REC_601, dtype=image.dtype), image.device))


def _patches(values: Float[Tensor, "image height width"], sides: tuple[int, int]) -> Float[Tensor, "image patch pixel"]:
    """Returns the values of each patch."""
    return F.unfold(values[:, None], sides, stride=sides).transpose(1, 2)
