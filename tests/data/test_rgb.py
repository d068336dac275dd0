"""Images of any mode, depth and orientation give the same pixels on every path to the model."""

from io import BytesIO
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from datasets import Image as Decoded
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from transformers.image_utils import load_image

from foveate.core.errors import DataError
from foveate.data.rgb import as_rgb, upright_size
from foveate.data.sample import Boxes, InMemoryImage
from foveate.data.stored import StoredImage, image_column
from foveate.models.loading.load import load
from foveate.testing.checkpoints import save_family

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (24, 40, 3), np.uint8)
ALPHA = RNG.integers(0, 256, (24, 40, 1), np.uint8)
DEEP = RNG.integers(0, 65536, (24, 40)).astype(np.uint16)
RGB, RGBA = Image.fromarray(COLOURS), Image.fromarray(np.concatenate([COLOURS, ALPHA], 2), "RGBA")
PALETTE = RGB.quantize(16)
UPRIGHT = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels, 1),
}
"""Functions from stored pixels to upright ones by EXIF orientation."""


def saved(image, form="PNG", orientation=None, **options):
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    data = BytesIO()
    image.save(data, form, **options)
    return data.getvalue()


def on_white(colours, alpha):
    share = alpha / 255
    return colours * share + 255 * (1 - share)


def opened(data):
    return Image.open(BytesIO(data))


def stored(data):
    table = Dataset(pa.Table.from_pylist([{"image": {"bytes": data, "path": None}}]))
    return StoredImage(image_column(table, "image"), 0, "one", Path())


GREY = np.asarray(RGB.convert("L"))
KEYED = RNG.integers(0, 16, (24, 40), np.uint8)  # colours of a palette
TABLE = RNG.integers(0, 256, (16, 3), np.uint8)


def painted():
    image = Image.fromarray(KEYED, "P")
    image.putpalette(TABLE.tobytes())
    return image


GOOD = {  # encoded image and expected pixels
    "RGB": (saved(RGB), COLOURS),
    "grey": (saved(RGB.convert("L")), GREY[..., None].repeat(3, 2)),
    "bilevel": (saved(Image.fromarray(GREY > 127)), np.where(GREY > 127, 255, 0)[..., None].repeat(3, 2)),
    "palette": (saved(painted()), TABLE[KEYED]),
    "palette, one colour clear": (
        saved(painted(), transparency=3),
        np.where((KEYED == 3)[..., None], 255, TABLE[KEYED]),
    ),
    "palette with alpha": (
        saved(painted(), transparency=bytes(range(0, 256, 16))),
        on_white(TABLE[KEYED], 16.0 * KEYED[..., None]),
    ),
    "RGB, one colour clear": (
        saved(RGB, transparency=tuple(int(x) for x in COLOURS[0, 0])),
        np.where((COLOURS == COLOURS[0, 0]).all(2, keepdims=True), 255, COLOURS),
    ),
    "RGBA": (saved(RGBA), on_white(COLOURS, ALPHA)),
    "grey with alpha": (
        saved(Image.fromarray(np.concatenate([GREY[..., None], ALPHA], 2), "LA")),
        on_white(GREY[..., None].repeat(3, 2), ALPHA),
    ),
    "CMYK": (saved(RGB.convert("CMYK"), "TIFF"), COLOURS),
    "16 bits": (saved(Image.fromarray(DEEP)), (DEEP >> 8)[..., None].repeat(3, 2)),
    "16 bits in TIFF": (saved(Image.fromarray(DEEP), "TIFF"), (DEEP >> 8)[..., None].repeat(3, 2)),
    **{
        f"{form}, orientation {n}": (saved(RGB, form, n, **options), turn(COLOURS))
        for form, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True}))
        for n, turn in UPRIGHT.items()
    },
    "JPEG, orientation 6": (saved(RGB, "JPEG", 6), UPRIGHT[6](np.asarray(opened(saved(RGB, "JPEG"))))),
    "RGBA, orientation 8": (saved(RGBA, orientation=8), UPRIGHT[8](on_white(COLOURS, ALPHA))),
    "16 bits, orientation 5": (
        saved(Image.fromarray(DEEP), orientation=5),
        UPRIGHT[5]((DEEP >> 8)[..., None].repeat(3, 2)),
    ),
    "an orientation outside of the standard": (saved(RGB, "JPEG", 99), np.asarray(opened(saved(RGB, "JPEG")))),
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load(save_family("Qwen2.5-VL", tmp_path_factory.mktemp("family")))


@pytest.mark.parametrize("kind", GOOD)
def test_every_reader_gives_the_same_pixels(kind, loaded):
    data, expected = GOOD[kind]
    first = as_rgb(opened(data))
    assert first.mode == "RGB"
    assert np.abs(np.asarray(first).astype(float) - expected).max() <= 1  # rounding of alpha
    table, memory = stored(data), InMemoryImage(opened(data))
    for image in (table.open(), memory.open(), as_rgb(first), as_rgb(table.open())):
        assert np.array_equal(np.asarray(image), np.asarray(first))
    for size in (table.size, memory.size, upright_size(opened(data)), upright_size(first)):
        assert size == first.size == expected.shape[1::-1]
    pixels = loaded.image_inputs([Image.fromarray(np.asarray(first))])[0]["pixel_values"]
    readers = (opened(data), table.open(), memory.open(), as_decoded_by_datasets(data))
    for image in readers:
        assert torch.equal(loaded.image_inputs([image])[0]["pixel_values"], pixels)


def as_decoded_by_datasets(data):
    """Returns the image that `datasets` decodes for lmms-eval's tasks and notebooks."""
    return Dataset.from_dict({"image": [{"bytes": data, "path": None}]}).cast_column("image", Decoded())[0]["image"]


@pytest.mark.parametrize("kind", [kind for kind in GOOD if "16 bits" not in kind and "orientation" not in kind])
def test_images_without_orientation_and_16_bits_equal_the_image_processors_of_transformers(kind, loaded):
    data = GOOD[kind][0]
    stock = loaded.processor.image_processor([opened(data)], return_tensors="pt")["pixel_values"]
    assert torch.equal(loaded.image_inputs([opened(data)])[0]["pixel_values"], stock)


@pytest.mark.parametrize("kind", [kind for kind in GOOD if "orientation" in kind and "bits" not in kind])
def test_orientation_equals_load_image(kind):
    image = opened(GOOD[kind][0])
    if image.mode == "RGB":
        assert np.array_equal(np.asarray(as_rgb(image)), np.asarray(load_image(image)))


@pytest.mark.parametrize("kind", ["JPEG, orientation 6", "16 bits", "RGBA", "palette with alpha"])
def test_images_of_requests_of_lmms_eval_give_the_same_pixels(kind, loaded):
    pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: docs/how_to/lmms_eval.md")
    from foveate.lmms_eval.request import Request

    data = GOOD[kind][0]
    request = Request.of(loaded, "What is it?", [opened(data)], "", 8)
    inputs = loaded.inputs([request.prompt], [request.images])
    assert torch.equal(inputs["pixel_values"], loaded.image_inputs([stored(data).open()])[0]["pixel_values"])


def test_an_orientation_in_xmp_is_applied_too():
    xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    note = PngInfo()
    note.add_itxt("XML:com.adobe.xmp", xmp)
    data = saved(RGB, pnginfo=note)
    assert np.array_equal(np.asarray(as_rgb(opened(data))), UPRIGHT[6](COLOURS))
    assert np.array_equal(np.asarray(as_rgb(stored(data).open())), UPRIGHT[6](COLOURS))


def test_evidence_refers_to_the_upright_image():
    image = stored(GOOD["JPEG, orientation 6"][0])
    (mask,) = Boxes(((0.0, 0.0, 0.5, 1.0),)).masks(image)
    assert mask.shape == np.asarray(image.open()).shape[:2] == (40, 24)
    assert mask[:, :12].all() and not mask[:, 12:].any()


def with_exif(data):
    """Returns a PNG with EXIF data, also invalid ones, which Pillow does not write."""
    chunk = b"eXIf" + data
    mark = len(PNG) - 12  # the end of a PNG
    return PNG[:mark] + len(data).to_bytes(4, "big") + chunk + crc32(chunk).to_bytes(4, "big") + PNG[mark:]


PNG = saved(RGB)


def test_exif_data_after_the_pixels_are_read():
    turned = Image.Exif()
    turned[0x0112] = 6
    data = with_exif(turned.tobytes().removeprefix(b"Exif\0\0"))
    assert stored(data).size == stored(data).open().size == as_rgb(opened(data)).size == (24, 40)


def test_unreadable_exif_data_are_an_error_that_names_the_image():
    data = with_exif(b"junk")
    for read in (lambda: as_rgb(opened(data), "image 'one'"), lambda: upright_size(opened(data), "image 'one'")):
        with pytest.raises(DataError, match=r"image 'one': its EXIF data, .* cannot be read .*: store it without"):
            read()
    for read in (stored(data).open, lambda: stored(data).size):
        with pytest.raises(DataError, match="image 'one': its EXIF data"):
            read()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bits_per_pixel_are_refused_by_every_reader(mode, loaded):
    image = Image.new(mode, (8, 8))
    for read in (lambda: InMemoryImage(image).open(), lambda: loaded.image_inputs([image])):
        with pytest.raises(DataError, match="32 bits per pixel"):
            read()


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA", "HSV", "LAB", "YCbCr", "RGBX"])
def test_modes_that_no_file_format_has_are_converted(mode):
    assert as_rgb(Image.new(mode, (4, 6))).mode == "RGB"


def test_an_array_is_refused_by_its_type():
    with pytest.raises(DataError, match="this image is a ndarray: expected a PIL image"):
        as_rgb(COLOURS)


def test_the_original_image_stays_unchanged():
    for image in (RGB, RGBA, opened(GOOD["JPEG, orientation 6"][0])):
        before, notes = np.array(image), dict(image.info)
        as_rgb(image).paste((1, 2, 3), (0, 0, 5, 5))
        assert np.array_equal(np.asarray(image), before) and image.info == notes
