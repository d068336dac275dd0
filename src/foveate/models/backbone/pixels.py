"""The 8-bit pixels behind the normalised ones that a vision tower receives."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from foveate.core.transfer import on_device

WHITE = 255
"""The largest 8-bit value."""


@dataclass(frozen=True)
class Normalisation:
    """An image processor's map of the 8-bit values of each channel: (value * factor - mean) / std."""

    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, image_processor: Any) -> "Normalisation":  # noqa: ANN401 (a class per family)
        """Returns the normalisation of an image processor of transformers."""
        factor = image_processor.rescale_factor if image_processor.do_rescale else 1
        mean, std = (image_processor.image_mean, image_processor.image_std) if image_processor.do_normalize else (0, 1)
        return cls(float(factor), _per_channel(mean), _per_channel(std))

    def undone(self, pixels: Float[Tensor, "image 3 height width"]) -> Float32[Tensor, "image 3 height width"]:
        """Returns the 8-bit RGB values from which the pixels were made, on their device.

        They are whole numbers, because processors resize in 8 bits. So neither rounding in the normalisation nor
        float16 changes them, their sums are exact, and equal patches stay equal on every device.
        """
        given = pixels.detach().float()
        mean, std = (on_device(torch.tensor(x)[:, None, None], given.device) for x in (self.mean, self.std))
        return torch.addcmul(mean, given, std).div_(self.factor).round_().clamp_(0, WHITE)


def pair(size: Any) -> tuple[int, int]:  # noqa: ANN401 (as configurations have it)
    """Returns height and width from a configuration's one or two numbers."""
    return (size, size) if isinstance(size, int) else tuple(size)


def _per_channel(value: Any) -> tuple[float, ...]:  # noqa: ANN401 (one number or a list)
    return (float(value),) * 3 if isinstance(value, int | float) else tuple(map(float, value))
