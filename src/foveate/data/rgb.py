"""Conversion of images of any mode, depth and orientation to upright RGB.

All images pass through `as_rgb`: those of benchmark tables, images in memory, and those of `LoadedModel.images`, which
lmms-eval and notebooks use.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, ImageOps
from PIL import Image as PILImage
from PIL.Image import Image

from foveate.core.errors import DataError, message_of

_SIDEWAYS = (5, 6, 7, 8)  # orientations whose width is the stored height


def as_rgb(image: Image, name: str = "this image") -> Image:
    """Returns an upright copy with 8 bits for each of red, green and blue.

    - An EXIF orientation is applied, as by `load_image` of transformers and by the decoder of `datasets`.
    - The upper 8 of 16 bits are kept; Pillow would clip all values above 255 to white.
    - Transparent pixels are blended with white, as by the image processors of transformers.

    The copy has no orientation tag, so that no image is turned twice.

    Args:
        image: An image of any mode; the current frame of an animation.
        name: Name of the image in errors.

    Raises:
        DataError: The argument is not an image, has 32 bits per pixel, or its EXIF data cannot be read.
    """
    if not isinstance(image, Image):
        raise DataError(f"{name} is a {type(image).__name__}: expected a PIL image, such as PIL.Image.open(path)")
    image.load()  # outside of the block below: an error here does not come from EXIF data
    with _reading_exif(name):
        upright = ImageOps.exif_transpose(image)
    eight = _eight_bits(upright, name)
    if _transparent(eight):
        eight = _opaque(eight)
    rgb = eight if eight.mode == "RGB" else eight.convert("RGB")
    rgb.info.pop("transparency", None)
    return rgb


def upright_size(image: Image, name: str = "this image") -> tuple[int, int]:
    """Returns width and height of the image that `as_rgb` returns.

    Args:
        image: The image. A PNG without EXIF data before its pixels is decoded, because they may follow.
        name: Name of the image in errors.

    Raises:
        DataError: The EXIF data cannot be read.
    """
    with _reading_exif(name):
        turned = image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
    sideways = turned and image.format != "TIFF"  # Pillow applies the orientation of a TIFF itself
    return (image.height, image.width) if sideways else image.size


@contextmanager
def _reading_exif(name: str) -> Iterator[None]:
    """Converts errors of Pillow's EXIF parser to errors that name the image.

    Raises:
        DataError: The EXIF data cannot be parsed.
    """
    try:
        yield
    except (SyntaxError, ValueError, KeyError, TypeError, IndexError) as error:  # what Pillow's parser raises
        raise DataError(
            f"{name}: its EXIF data, which may hold an orientation, cannot be read ({message_of(error)}): store "
            "it without "
            "EXIF data"
        ) from error


def _eight_bits(image: Image, name: str) -> Image:
    """Returns an image with 8 bits per channel."""
    if image.mode in ("I", "F"):
        raise DataError(f"{name} has 32 bits per pixel, whose value of white is not defined: store 8 or 16 bits")
    if not image.mode.startswith("I;16"):
        return image
    deep = np.asarray(image)
    grey = (deep >> 8).astype(np.uint8)
    clear = image.info.get("transparency")
    return PILImage.fromarray(np.where(deep == clear, np.uint8(255), grey) if isinstance(clear, int) else grey)


def _transparent(image: Image) -> bool:
    return bool({"A", "a"} & set(image.getbands())) or image.info.get("transparency") is not None


def _opaque(image: Image) -> Image:
    """Returns the image blended with white."""
    clear = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
    white = PILImage.new("RGBA", clear.size, (255, 255, 255, 255))
    return PILImage.alpha_composite(white, clear).convert("RGB")
