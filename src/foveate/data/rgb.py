"""Images of any mode and depth as what models are given: 8 bits for each of red, green and blue."""

import numpy as np
from PIL import Image as PILImage
from PIL.Image import Image

from foveate.core.errors import DataError


def eight_bits(image: Image, name: str = "this image") -> Image:
    """Returns a copy with 8 bits per channel; of 16 the upper ones, where Pillow would make white of all above 255.

    Args:
        image: Of any mode.
        name: What to call it in an error.

    Raises:
        DataError: It has 32 bits per pixel.
    """
    if image.mode in ("I", "F"):
        raise DataError(f"{name} has 32 bits per pixel, of which nobody knows what is white: store 8 or 16")
    if image.mode.startswith("I;16"):
        return PILImage.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.copy()


def as_rgb(image: Image) -> Image:
    """Returns the image in red, green and blue.

    Raises:
        DataError: It has 32 bits per pixel.
    """
    return eight_bits(image).convert("RGB")
