"""The one way in for images: of any mode, depth and orientation to what models are given.

Every door uses `as_rgb`: tables of benchmarks, images in memory, `LoadedModel.images`, and so lmms-eval and notebooks.
"""

from typing import Any

import numpy as np
from PIL import ExifTags
from PIL import Image as PILImage
from PIL.Image import Image, Transpose

from foveate.core.errors import DataError, said

_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_ORIENTED = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
"""Entries of `Image.info` that may hold an orientation."""


def as_rgb(image: Image, name: str = "this image") -> Image:
    """Returns a copy as models are given it: upright, with 8 bits for each of red, green and blue.

    - An EXIF orientation is applied, as by `load_image` of transformers and by the decoder of `datasets`.
    - Of 16 bits the upper eight are kept, where Pillow would make white of all above 255.
    - What is transparent is laid onto white, as image processors of transformers do.

    The copy carries no orientation any more, so that nothing is turned twice.

    Args:
        image: Of any mode; of an animation the current frame is taken.
        name: What to call it in an error.

    Raises:
        DataError: It is no image, has 32 bits per pixel, or its EXIF data cannot be read.
    """
    if not isinstance(image, Image):
        raise DataError(f"{name} is a {type(image).__name__}: expected a PIL image, such as PIL.Image.open(path)")
    image.load()  # Pillow itself turns a TIFF while it is decoded
    turn = _TURNS.get(_orientation(image, name))
    eight = _eight_bits(image if turn is None else image.transpose(turn), name)
    rgb = _opaque(eight) if _transparent(eight) else eight.convert("RGB")
    for entry in (*_ORIENTED, "transparency"):
        rgb.info.pop(entry, None)
    return rgb


def upright_size(image: Image, name: str = "this image") -> tuple[int, int]:
    """Returns width and height of what `as_rgb` returns.

    Args:
        image: Need not be decoded; a PNG without EXIF data before its pixels is, because they may stand behind them.
        name: What to call it in an error.

    Raises:
        DataError: Its EXIF data cannot be read.
    """
    sideways = image.format != "TIFF" and _orientation(image, name) >= 5  # Pillow knows of a TIFF how it is turned
    return (image.height, image.width) if sideways else image.size


def _orientation(image: Image, name: str) -> int:
    """Returns the EXIF orientation, 1 to 8; 1 if there is none, or one that no standard knows."""
    try:
        found: Any = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, KeyError, TypeError, IndexError) as error:  # what Pillow's parser raises
        raise DataError(
            f"{name}: its EXIF data, which may say how it is turned, cannot be read ({said(error)}): store it without"
        ) from error
    return found if found in _TURNS else 1


def _eight_bits(image: Image, name: str) -> Image:
    if image.mode in ("I", "F"):
        raise DataError(f"{name} has 32 bits per pixel, of which nobody knows what is white: store 8 or 16")
    if not image.mode.startswith("I;16"):
        return image
    deep = np.asarray(image)
    grey = (deep >> 8).astype(np.uint8)
    clear = image.info.get("transparency")
    return PILImage.fromarray(np.where(deep == clear, np.uint8(255), grey) if isinstance(clear, int) else grey)


def _transparent(image: Image) -> bool:
    return bool({"A", "a"} & set(image.getbands())) or image.info.get("transparency") is not None


def _opaque(image: Image) -> Image:
    """Returns the image on white."""
    clear = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
    white = PILImage.new("RGBA", clear.size, (255, 255, 255, 255))
    return PILImage.alpha_composite(white, clear).convert("RGB")
