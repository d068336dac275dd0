"""The one way in for images: of any mode, depth and orientation to what models are given.

Every door uses `as_rgb`: tables of benchmarks, images in memory, `LoadedModel.images`, and so lmms-eval and notebooks.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, ImageOps
from PIL import Image as PILImage
from PIL.Image import Image

from foveate.core.errors import DataError, said

_SIDEWAYS = (5, 6, 7, 8)  # orientations whose width is the stored height


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
    image.load()  # what fails here is not its EXIF data
    with _reading_exif(name):
        upright = ImageOps.exif_transpose(image)
    eight = _eight_bits(upright, name)
    rgb = _opaque(eight) if _transparent(eight) else eight.convert("RGB")
    rgb.info.pop("transparency", None)
    return rgb


def upright_size(image: Image, name: str = "this image") -> tuple[int, int]:
    """Returns width and height of what `as_rgb` returns.

    Args:
        image: Need not be decoded; a PNG without EXIF data before its pixels is, because they may stand behind them.
        name: What to call it in an error.

    Raises:
        DataError: Its EXIF data cannot be read.
    """
    with _reading_exif(name):
        turned = image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
    sideways = turned and image.format != "TIFF"  # of which Pillow knows how it is turned
    return (image.height, image.width) if sideways else image.size


@contextmanager
def _reading_exif(name: str) -> Iterator[None]:
    """Names the image whose EXIF data Pillow cannot parse.

    Raises:
        DataError: It cannot.
    """
    try:
        yield
    except (SyntaxError, ValueError, KeyError, TypeError, IndexError) as error:  # what Pillow's parser raises
        raise DataError(
            f"{name}: its EXIF data, which may say how it is turned, cannot be read ({said(error)}): store it without"
        ) from error


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
