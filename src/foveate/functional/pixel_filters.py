"""Pixel filters: one number per patch from the image alone, without a network."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from foveate.core.transfer import on_device

_REC_601 = (0.299, 0.587, 0.114)  # weights of R, G and B in luminance

Image = Float[Tensor, "image 3 height width"]
Luminance = Float[Tensor, "image height width"]
PerPatch = Float[Tensor, "image patch"]


def filtered(image: Image, sides: tuple[int, int], names: Sequence[str]) -> Float[Tensor, "image patch filter"]:
    """Returns the answers of filters, in float64.

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
    return torch.stack([answer.double() for answer in answers], -1)


def saturation(image: Image, sides: tuple[int, int]) -> PerPatch:
    """Returns the mean, over the pixels of each patch, of max(R, G, B) - min(R, G, B).

    Args:
        image: RGB in any unit, which is the unit of the result.
        sides: Height and width of a patch in pixels; patches are in raster order. A remainder at the right or bottom
            that is smaller than a patch is ignored.
    """
    return _patches(image.amax(1) - image.amin(1), sides).mean(-1)


def contrast(light: Luminance, sides: tuple[int, int]) -> PerPatch:
    """Returns the population standard deviation of luminance over the pixels of each patch.

    Args:
        light: See `luminance`.
        sides: See `saturation`.
    """
    return _patches(light, sides).std(-1, correction=0)


def edges(light: Luminance, sides: tuple[int, int]) -> PerPatch:
    """Returns the mean, over the pixels of each patch, of the length of the gradient of luminance.

    The gradient is computed over the whole image, so edges between patches count: central differences per pixel,
    one-sided differences at the border of the image.

    Args:
        light: See `luminance`.
        sides: See `saturation`.
    """
    down, right = torch.gradient(light, dim=(1, 2))
    return _patches((down.square() + right.square()).sqrt(), sides).mean(-1)


_OF_LUMINANCE = {"contrast": contrast, "edges": edges}


def luminance(image: Image) -> Luminance:
    """Returns the luminance of Rec. 601 in float64: 0.299 R + 0.587 G + 0.114 B."""
    weights = on_device(torch.tensor(_REC_601, dtype=torch.float64), image.device)
    return torch.einsum("ichw,c->ihw", image.double(), weights)


def _patches(values: Luminance, sides: tuple[int, int]) -> Float[Tensor, "image patch pixel"]:
    """Returns the values of each patch."""
    return F.unfold(values[:, None], sides, stride=sides).transpose(1, 2)
