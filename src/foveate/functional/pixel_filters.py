"""Pixel filters: one number per patch from the image alone, without a network."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

_RED, _GREEN, _BLUE, _WHITE = 299, 587, 114, 1000  # weights of Rec. 601; whole numbers keep those of 8 bits whole

Image = Float[Tensor, "image 3 height width"]
Luminance = Float[Tensor, "image height width"]
PerPatch = Float64[Tensor, "image patch"]


def filtered(image: Image, sides: tuple[int, int], names: Sequence[str]) -> Float64[Tensor, "image patch filter"]:
    """Returns the answers of filters.

    Args:
        image: See `saturation`.
        sides: See `saturation`.
        names: Names of functions of this module, as in `core.needs.PixelStatistic`.
    """
    light = luminance(image) if set(names) - {"saturation"} else None
    answers = (
        saturation(image, sides) if light is None or name == "saturation" else _OF_LUMINANCE[name](light, sides)
        for name in names
    )
    return torch.stack([*answers], -1)


def saturation(image: Image, sides: tuple[int, int]) -> PerPatch:
    """Returns the mean, over the pixels of each patch, of max(R, G, B) - min(R, G, B).

    Args:
        image: RGB in any unit, which is the unit of the result.
        sides: Height and width of a patch in pixels; patches are in raster order. A remainder at the right or bottom
            that is smaller than a patch is ignored.
    """
    return _sums(image.amax(1) - image.amin(1), sides) / math.prod(sides)


def contrast(light: Luminance, sides: tuple[int, int]) -> PerPatch:
    """Returns the population standard deviation of luminance over the pixels of each patch.

    Sums of whole numbers are exact in float64, so a patch of one colour has 0.

    Args:
        light: See `luminance`.
        sides: See `saturation`.
    """
    pixels, exact = math.prod(sides), light.double()
    spread = pixels * _sums(exact.square(), sides) - _sums(exact, sides).square()
    return spread.clamp(min=0).sqrt() / pixels / _WHITE


def edges(light: Luminance, sides: tuple[int, int]) -> PerPatch:
    """Returns the mean, over the pixels of each patch, of the length of the gradient of luminance.

    The gradient is computed over the whole image, so edges between patches count: central differences per pixel,
    one-sided differences at the border of the image.

    Args:
        light: See `luminance`.
        sides: See `saturation`.
    """
    down, right = torch.gradient(light, dim=(1, 2))
    return _sums(torch.hypot(down, right), sides) / math.prod(sides) / _WHITE


_OF_LUMINANCE = {"contrast": contrast, "edges": edges}


def luminance(image: Image) -> Luminance:
    """Returns the luminance of Rec. 601 in thousandths of the image's unit: 299 R + 587 G + 114 B."""
    red, green, blue = image.unbind(1)
    return torch.add(torch.add(_RED * red, green, alpha=_GREEN), blue, alpha=_BLUE)


def _sums(values: Luminance, sides: tuple[int, int]) -> Float64[Tensor, "image patch"]:
    """Returns the sum over the pixels of each patch."""
    return F.avg_pool2d(values.double()[:, None], sides, divisor_override=1).flatten(1)
