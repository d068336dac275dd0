"""Pixel statistics of every family, in the order of its visual tokens, from the pixels that its tower receives."""

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from foveate.compressors import DecoderCompressor, VisionCompressor
from foveate.core.errors import UnsupportedNeed
from foveate.core.needs import PIXEL_STATISTICS
from foveate.data.clip import Clip
from foveate.methods import METHODS
from foveate.models.backbone.pixels import Normalisation
from foveate.models.loading.load import adapt, load
from foveate.models.loading.loaded_model import LoadedModel
from foveate.models.loading.processor import Parts
from foveate.scorers import Contrast, Edges, Saturation
from foveate.testing.checkpoints import image_processor, tokenizer
from foveate.testing.families import FAMILIES, START, WITHOUT_CUTS, placeholders
from foveate.testing.matrix import family_inputs, load_family
from tests.functional.test_pixel_filters import oracle
from tests.models.families.test_towers import KINDS, OF_VIDEOS, TILED, pixels_of, placed

SIDE = 4  # pixels of a patch
SCORERS = {"saturation": Saturation(), "contrast": Contrast(), "edges": Edges()}
HEIGHT, WIDTH = 24, 48  # of two tiles beside each other
REGION = (8, 32, 16, 48)  # top, left, bottom, right: whole visual tokens in all views of all families
CROPPED = (OF_VIDEOS + "LLaVA-NeXT-Video",)  # which sees no whole token of the region


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


@cache
def loaded_of(family):
    """Returns the family's tiny model with an image processor for the same resolutions."""
    name = family.removeprefix(OF_VIDEOS)
    model = FAMILIES[name]()
    processor = image_processor(name, getattr(model.config, "image_grid_pinpoints", None))
    return LoadedModel(name, adapt(model), Parts(processor, tokenizer(name)))


def adapter_of(family):
    """Returns the adapter of the family's images or videos."""
    adapter = loaded_of(family).adapter
    return adapter.other if family.startswith(OF_VIDEOS) else adapter


def image(of):
    """Returns a grey image with one region that is colourful, or black and white noise."""
    top, left, bottom, right = REGION
    pixels = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    noise = np.random.default_rng(0).integers(0, 2, (bottom - top, right - left, 1), np.uint8) * 255
    pixels[top:bottom, left:right] = (230, 40, 60) if of == "saturation" else noise
    return Image.fromarray(pixels)


def seen(family, images, frames=1):
    """Returns the inputs and the arrangement of images; in videos each is the last of `frames` frames."""
    loaded = loaded_of(family)
    if family.startswith(OF_VIDEOS):
        plain = Image.new("RGB", images[0].size, (128, 128, 128))
        clips = [Clip([*[plain] * (frames - 1), image], list(range(frames))) for image in images]
        inputs, arrangements = loaded.video_inputs(clips)
    else:
        inputs, arrangements = loaded.image_inputs(images)
    assert len(set(arrangements)) == 1
    return inputs, arrangements[0]


def boxes(family, arrangement):
    """Returns for each view the part of the image that it shows, or None."""
    if family.startswith(OF_VIDEOS):
        return [*[None] * (arrangement.frames - 1), (0, 0, 1, 1)]
    if family == "InternVL":  # tile after tile, the whole image last
        return [(0, 0, 1, 0.5), (0, 0.5, 1, 1), (0, 0, 1, 1)]
    return arrangement.boxes


def inside(family, arrangement):
    """Returns the visual tokens that show the region and nothing else."""
    top, left, bottom, right = REGION
    found, start = [], 0
    for grid, box in zip(arrangement.views, boxes(family, arrangement), strict=True):
        for number in range(grid.patches) if box else ():
            row, column = divmod(number, grid.columns)
            up, down = (HEIGHT * (box[0] + (box[2] - box[0]) * r / grid.rows) for r in (row, row + 1))
            west, east = (WIDTH * (box[1] + (box[3] - box[1]) * c / grid.columns) for c in (column, column + 1))
            if top <= up and down <= bottom and left <= west and east <= right:
                found.append(start + number)
        start += grid.patches
    return found


def generated(compressor, family, inputs, arrangement):
    """Returns the kept patches of one image in stock `generate`."""
    loaded = loaded_of(family)
    token = adapter_of(family).image_token
    frames, name = arrangement.frames, family.removeprefix(OF_VIDEOS)
    run = placeholders(name, token, arrangement.length, frames) if frames else [token] * arrangement.length
    ids = torch.tensor([[5, 6, START, *run, 9, 10]])
    kinds = loaded.adapter.token_types(ids)
    with compressor.attached(loaded) as run:
        loaded.model.generate(input_ids=ids, **inputs, **kinds, max_new_tokens=1, do_sample=False)
    return run.kept[0].tolist()


@pytest.mark.parametrize("family", [kind for kind in KINDS if kind not in CROPPED])
@pytest.mark.parametrize("name", SCORERS)
def test_the_tokens_that_show_what_stands_out_are_kept(family, name):
    inputs, arrangement = seen(family, [image(name)], frames=2)
    expected = inside(family, arrangement)
    assert 1 <= len(expected) < arrangement.patches / 4
    assert generated(METHODS[name](keep=len(expected)), family, inputs, arrangement) == expected
    if family in WITHOUT_CUTS:
        return
    cut = DecoderCompressor(SCORERS[name], len(expected), layer=2)  # to which the scores are carried
    assert generated(cut, family, inputs, arrangement) == expected


def shown(pixels, processor):
    """Converts normalised (channel, height, width) pixels to RGB in [0, 1], (height, width, channel)."""
    mean, std = np.array(processor.image_mean), np.array(processor.image_std)
    return (np.moveaxis(pixels.double().numpy(), 0, -1) * std + mean).round(6)


@cache
def photographs():
    """Returns colour images with structure at all scales."""
    rng = np.random.default_rng(0)
    sizes = [(24, 48), (24, 48), (50, 22), (61, 60)]
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def answered(family, images):
    """Returns the answers about images of one arrangement."""
    inputs, arrangement = seen(family, images)
    return adapter_of(family).encode(inputs, arrangement, PIXEL_STATISTICS)[1]


@pytest.mark.parametrize("family", TILED)
def test_tiles_are_packed_as_the_model_packs_them(family):
    """The expected values come from a loop over the patches of every tile and the test's own packing."""
    loaded = loaded_of(family)
    processor = loaded.processor.image_processor
    for image in photographs()[1:]:
        inputs, arrangement = seen(family, [image], frames=2)
        values = adapter_of(family).encode(inputs, arrangement, PIXEL_STATISTICS)[1]
        tiles = pixels_of(family, inputs)
        for need in PIXEL_STATISTICS:
            numbers = np.stack([oracle(need.name, shown(tile, processor), (SIDE, SIDE)) for tile in tiles])
            expected = placed(family, inputs, torch.from_numpy(numbers).float()[..., None])[..., 0]
            torch.testing.assert_close(values[need][0], expected, atol=1e-5, rtol=1e-5)


def test_llava_sees_the_image_resized_by_pillow():
    for image in photographs():
        values = answered("LLaVA-1.5", [image])
        small = np.asarray(image.resize((24, 24), Image.Resampling.BICUBIC)) / 255
        for need in PIXEL_STATISTICS:
            np.testing.assert_allclose(values[need][0], oracle(need.name, small, (SIDE, SIDE)), rtol=1e-5)


@pytest.mark.parametrize("family", ("Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-MoE", "GLM-4.1V", "GLM-4.5V", "GLM-4.6V"))
def test_qwens_tokens_are_squares_of_patches_in_reading_order(family):
    for height, width in ((24, 40), (32, 16)):
        image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))
        values = answered(family, [image])  # these sizes are left as they are
        for need in PIXEL_STATISTICS:
            numbers = oracle(need.name, np.asarray(image) / 255, (SIDE, SIDE)).reshape(height // SIDE, width // SIDE)
            rows, columns = height // 8, width // 8
            expected = [
                numbers[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean() for r in range(rows) for c in range(columns)
            ]
            np.testing.assert_allclose(values[need][0], expected, rtol=1e-5)


@pytest.mark.parametrize("family", KINDS)
def test_neither_batch_nor_half_precision_changes_a_number(family):
    both = photographs()[:2]
    together, adapter = answered(family, both), adapter_of(family)
    inputs, arrangement = seen(family, both)
    half = {name: value.half() if value.is_floating_point() else value for name, value in inputs.items()}
    for need in PIXEL_STATISTICS:
        assert together[need].dtype == torch.float32
        assert torch.equal(adapter.pixel_statistics(half, arrangement, [need])[need], together[need])
        for row, image in enumerate(both):
            assert torch.equal(answered(family, [image])[need][0], together[need][row])


@pytest.mark.parametrize("family", FAMILIES)
def test_undone_is_the_image_in_8_bits(family):
    """The result is exact for any mean and deviation; InternVL and the LLaVAs split the image into one tile."""
    processor = image_processor(family, [[24, 24]])
    pixels = np.random.default_rng(2).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    found = Normalisation.of(processor)
    mean, std = (torch.tensor(x)[:, None, None] for x in (processor.image_mean, processor.image_std))
    normalised = (torch.from_numpy(pixels).movedim(-1, 0) / 255 - mean) / std
    assert torch.equal(found.undone(normalised[None]), torch.from_numpy(pixels).movedim(-1, 0)[None].double())


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({"do_normalize": False}, lambda x: x / 255),
        ({"do_normalize": False, "do_rescale": False}, lambda x: x.double()),
        ({"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}, lambda x: x / 127.5 - 1),
        ({"image_mean": 0.5, "image_std": 0.25}, lambda x: (x / 255 - 0.5) / 0.25),
    ],
    ids=["not normalised", "neither rescaled", "to [-1, 1]", "one number for all channels"],
)
def test_every_way_to_normalise_is_undone(options, given):
    pixels = torch.arange(256).repeat(3).reshape(1, 3, 16, 16)
    processor = image_processor("LLaVA-1.5")
    for name, value in options.items():
        setattr(processor, name, value)
    assert torch.equal(Normalisation.of(processor).undone(given(pixels)), pixels.double())


@pytest.mark.parametrize("name", SCORERS)
def test_a_model_without_its_processor_is_refused_by_name(name):
    model = FAMILIES["LLaVA-1.5"]()
    with (
        METHODS[name](8).attached(model),
        pytest.raises(UnsupportedNeed, match=rf"PixelStatistic\(name='{name}'\).*foveate\.models\.loading\.load\.load"),
    ):
        model.generate(**family_inputs("LLaVA-1.5"), max_new_tokens=1)


@pytest.mark.parametrize("name", SCORERS)
def test_features_without_pixels_are_refused_by_name(name):
    loaded = load_family("LLaVA-1.5")
    inputs = dict(family_inputs("LLaVA-1.5"))
    given = loaded.model.get_image_features(inputs.pop("pixel_values"), return_dict=True)
    with (
        METHODS[name](8).attached(loaded),
        pytest.raises(
            UnsupportedNeed, match=rf"PixelStatistic\(name='{name}'\).*mm_encoder_outputs: give pixel_values"
        ),
    ):
        loaded.model.generate(**inputs, mm_encoder_outputs={"image": given}, max_new_tokens=1)


def test_flat_images_are_ties_which_go_to_the_first_patches():
    """All patches of an image of one colour are exactly equal, whatever the colour."""
    loaded = load()
    for colour in ((13, 77, 201), (255, 255, 255)):
        for need in PIXEL_STATISTICS:
            _, trace = loaded.images([Image.new("RGB", (96, 96), colour)]).encode((need,))
            assert trace[need].unique().numel() == 1
            with VisionCompressor(SCORERS[need.name], 5).attached(loaded) as run:
                images, (arrangement,) = loaded.image_inputs([Image.new("RGB", (96, 96), colour)])
                ids = torch.tensor([loaded.prompt("what?", arrangement)])
                loaded.model.generate(input_ids=ids, **images, max_new_tokens=1)
            assert run.kept[0].tolist() == list(range(5))
