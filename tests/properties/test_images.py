"""Encoded images of every kind through the loader and the model's image processor."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from PIL import Image

from foveate.core.errors import DataError
from foveate.data.stored import LARGEST_FILE, StoredImage, image_column
from foveate.models.loading.load import load


def saved(image, form, **options):
    data = BytesIO()
    image.save(data, form, **options)
    return data.getvalue()


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, *more, data=b""):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def stored(value, folder=Path()):
    table = Dataset(pa.Table.from_pylist([{"image": value}]))
    return StoredImage(image_column(table, "image"), 0, "one", folder)


SMALL = Image.new("RGB", (8, 8), (10, 200, 30))
DEEP = Image.fromarray(np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16))
WHOLE = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "PNG")
GOOD = {
    "CMYK": saved(Image.new("CMYK", (8, 8), (10, 20, 30, 40)), "JPEG"),
    "16 bits": saved(DEEP, "PNG"),
    "16 bits in TIFF": saved(DEEP, "TIFF"),
    "bilevel": saved(Image.new("1", (8, 8)), "PNG"),
    "grey with alpha": saved(Image.new("LA", (8, 8)), "PNG"),
    "palette with transparency": saved(Image.new("P", (8, 8)), "PNG", transparency=b"\0\1"),
    "animated GIF": saved(SMALL, "GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")]),
    "animated WEBP": saved(
        SMALL, "WEBP", lossless=True, save_all=True, append_images=[Image.new("RGB", (8, 8), "red")]
    ),
    "one pixel": saved(Image.new("RGB", (1, 1)), "PNG"),
    "one by three": saved(Image.new("RGB", (1, 3)), "PNG"),
    "three by one": saved(Image.new("RGB", (3, 1)), "PNG"),
    "a line": saved(Image.new("RGB", (1, 3000)), "PNG"),
}
BAD = {
    "bomb": (png(60_000, 60_000), "exceeds limit"),
    "text bomb": (png(8, 8, chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 80_000_000))), "too large"),
    "zero pixels": (png(0, 8), "expected one of the formats"),
    "too few bytes": (png(100, 100, data=b"\0" * 9), "truncated"),
    "cut in half": (WHOLE[: len(WHOLE) // 2], "truncated|buffer"),
    "cut JPEG": (saved(SMALL, "JPEG")[:150], "runcated|one of the formats"),
    "32 bits": (saved(Image.new("F", (8, 8)), "TIFF"), "store 8 or 16"),
    "PostScript": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "expected one of the formats JPEG",
    ),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "expected one of the formats JPEG"),
    "noise": (b"\x89PNG\r\n\x1a\n" + b"\xff" * 40, "cannot be decoded"),
}


@pytest.mark.parametrize("kind", GOOD)
def test_an_image_of_any_kind_is_read_and_prepared(kind, tiny):
    image = stored({"bytes": GOOD[kind], "path": None})
    image = image.open()
    assert image.size == image.size
    inputs, _ = load_once(tiny).image_inputs([image])
    assert inputs["pixel_values"].isfinite().all()


LOADED = {}


def load_once(tiny):
    LOADED.setdefault(tiny, load(tiny))
    return LOADED[tiny]


def test_sixteen_bits_become_their_upper_eight_instead_of_white():
    pixels = np.asarray(stored({"bytes": GOOD["16 bits"], "path": None}).open().convert("RGB"))
    assert (pixels[..., 0] == np.asarray(DEEP) // 256).all()
    clipped = np.asarray(Image.open(BytesIO(GOOD["16 bits"])).convert("RGB"))
    assert clipped.mean() > 240 > 140 > pixels.mean()  # what Pillow alone makes of it


@pytest.mark.parametrize("kind", ["animated GIF", "animated WEBP"])
def test_of_an_animation_the_first_frame_is_taken(kind):
    image = stored({"bytes": GOOD[kind], "path": None}).open().convert("RGB")
    assert image.getpixel((4, 4)) == (10, 200, 30)


@pytest.mark.parametrize("kind", BAD)
def test_an_image_that_cannot_be_decoded_says_why(kind):
    data, why = BAD[kind]
    with pytest.raises(DataError, match=rf"image 'one'.*({why})") as caught:
        stored({"bytes": data, "path": None}).open()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("length", range(0, len(WHOLE), 1117))
def test_an_image_cut_anywhere_is_refused(length):
    with pytest.raises(DataError, match="image 'one'"):
        stored({"bytes": WHOLE[:length], "path": None}).open()


@pytest.mark.parametrize("value", ["text", b"", [], [None], {"path": "no/such.png", "bytes": None}], ids=repr)
def test_a_cell_without_an_image_is_named(value, tmp_path):
    with pytest.raises(DataError, match="image 'one'"):
        stored(value, tmp_path).open()


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    with pytest.raises(DataError, match="expected at most 268,435,456"):
        stored({"bytes": None, "path": "large.png"}, tmp_path).open()
