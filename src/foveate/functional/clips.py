"""Frames of a video: their features, and similarities of patches between them and to means."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from foveate.core.errors import UnsupportedNeed
from foveate.core.trace import Trace

_WIDTHS = (1 / 8, 1 / 4, 1 / 2, 1, 2)  # of the Gaussians of VidCom2


def frames_of(values: Float[Tensor, "batch source dim"], trace: Trace) -> Float[Tensor, "batch frame patch dim"]:
    """Returns the values of the patches of each frame in float64; an image is one frame, whatever its views.

    Raises:
        UnsupportedNeed: Only some of the patches are left, at a cut inside the language model.
    """
    if trace.origin is not None:
        raise UnsupportedNeed(
            "whole frames are compared, and inside the language model some of their patches may be missing: compress "
            "them before it, by a VisionCompressor"
        )
    return values[:, : trace.patches].double().unflatten(1, (trace.frames, -1))


def check_frames(trace: Trace, plugin: object) -> None:
    """Checks that there are several frames.

    Raises:
        UnsupportedNeed: There is one frame, with which no other can be compared.
    """
    if trace.frames == 1:
        raise UnsupportedNeed(
            f"{plugin} compares the frames of a video, and an image is a single frame: give a video of two frames or "
            "more, or a method that works on images, such as divprune"
        )


def whole(number: float) -> int:
    """Returns a number rounded down; a product that misses a whole number by its rounding counts as that number."""
    return math.floor(number + 1e-9)


def at_least(number: float) -> int:
    """Returns a number rounded up; see `whole`."""
    return math.ceil(number - 1e-9)


def similarity_to_means(
    clip: Float[Tensor, "batch frame patch dim"],
) -> tuple[Float[Tensor, "batch frame patch"], Float[Tensor, "batch frame patch"]]:
    """Returns the similarity of each patch to the mean of all patches of the video, and to that of its frame.

    A similarity is the sum of five Gaussians of the distance. Only the half of the channels that vary least in the
    video counts, and features have length 1 in them; means are not normalised again.
    """
    steady = clip.var((1, 2), correction=0).argsort(dim=1, stable=True)[:, : max(1, clip.shape[3] // 2)]
    chosen = clip.gather(3, steady[:, None, None].expand(-1, clip.shape[1], clip.shape[2], -1))
    unit = F.normalize(chosen, dim=3)
    return _gaussians(unit - unit.mean((1, 2), keepdim=True)), _gaussians(unit - unit.mean(2, keepdim=True))


def _gaussians(away: Float[Tensor, "batch frame patch dim"]) -> Float[Tensor, "batch frame patch"]:
    squared = away.square().sum(3)
    return torch.stack([(-squared / (2 * width)).exp() for width in _WIDTHS]).sum(0)
