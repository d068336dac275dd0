"""What one run kept, drawn fast enough to be made for every trial of a study."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import pyarrow as pa
from PIL import Image

from foveate.core.arrangement import Arrangement
from foveate.data.sample import first_of_images
from foveate.evaluation import EvalConfig
from foveate.evaluation.evidence import visible_part
from foveate.evaluation.run import cached_load, data_of

IMAGES = 4
_SIDE, _GAP = 192, 8
_DIMMED = 0.22  # of the brightness of what was dropped


def kept_figure(config: EvalConfig, records: pa.Table) -> bytes:
    """Returns a PNG of what was kept of the first images, each for the first question about it."""
    samples, _ = data_of(config.data, config.split, config.limit, config.seed)
    loaded = cached_load(config.model, config.device, config.dtype)
    kept = dict(zip(records["sample_id"].to_pylist(), records["kept"].to_pylist(), strict=True))
    first = first_of_images([sample for sample in samples if sample.id in kept])
    shown = sorted(first.values(), key=lambda sample: sample.image_id)[:IMAGES]
    arrangements = [loaded.image_inputs([sample.image])[1][0] for sample in shown]
    images = [visible_part(loaded, sample.image, loaded.adapter.tower.grid) for sample in shown]
    lights = [lit(image, kept[sample.id]) for image, sample in zip(arrangements, shown, strict=True)]
    montage = kept_overlay(images, lights)
    png = BytesIO()
    montage.save(png, "PNG")
    return png.getvalue()


def lit(image: Arrangement, kept: Sequence[int]) -> np.ndarray:
    """Brightness over the last view, which shows the whole image or its enlargement: of what was dropped less."""
    grid = image.views[-1]
    light = np.full(image.patches, _DIMMED)
    light[list(kept)] = 1
    return light[-grid.patches :].reshape(grid.rows, grid.columns)


def kept_overlay(images: Sequence[Image.Image], lights: Sequence[np.ndarray]) -> Image.Image:
    """The images side by side, patches that were dropped dimmed.

    Args:
        images: At least one.
        lights: (rows, columns) of each, as `lit` gives them.
    """
    montage = Image.new("RGB", (len(images) * (_SIDE + _GAP) - _GAP, _SIDE), "white")
    for number, (image, light) in enumerate(zip(images, lights, strict=True)):
        mask = Image.fromarray((255 * light).astype(np.uint8)).resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
        shown = Image.new("RGB", (_SIDE, _SIDE), "white")
        shown.paste(image.convert("RGB").resize((_SIDE, _SIDE)), mask=mask)
        montage.paste(shown, (number * (_SIDE + _GAP), 0))
    return montage
