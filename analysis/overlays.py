"""What one run kept, drawn fast enough to be made for every trial of a study."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import pyarrow as pa
from PIL import Image

from foveate.evaluation import EvalConfig
from foveate.evaluation.module import as_seen
from foveate.evaluation.run import cached_load, data_of

PICTURES = 4
_SIDE, _GAP = 192, 8
_DIMMED = 0.22  # of the brightness of what was dropped


def kept_picture(config: EvalConfig, records: pa.Table) -> bytes:
    """A PNG of what was kept of the first pictures, each for the first question about it."""
    samples, _ = data_of(config.data, config.split, config.limit, config.seed)
    loaded = cached_load(config.model, config.device, config.dtype)
    grid = loaded.adapter.tower.grid
    kept = dict(zip(records["sample_id"].to_pylist(), records["kept"].to_pylist(), strict=True))
    first = {sample.image_id: sample for sample in reversed(samples) if sample.id in kept}
    shown = sorted(first.values(), key=lambda sample: sample.image_id)[:PICTURES]
    pictures = [as_seen(loaded, sample.image, grid) for sample in shown]
    montage = kept_overlay(pictures, [kept[s.id] for s in shown], (grid.rows, grid.columns))
    png = BytesIO()
    montage.save(png, "PNG")
    return png.getvalue()


def kept_overlay(pictures: Sequence[Image.Image], kept: Sequence[Sequence[int]], grid: tuple[int, int]) -> Image.Image:
    """The pictures side by side, patches that were dropped dimmed.

    Args:
        pictures: At least one.
        kept: Patches that stay, per picture.
        grid: Rows and columns of patches.
    """
    montage = Image.new("RGB", (len(pictures) * (_SIDE + _GAP) - _GAP, _SIDE), "white")
    for number, (picture, patches) in enumerate(zip(pictures, kept, strict=True)):
        light = np.full(grid[0] * grid[1], _DIMMED)
        light[list(patches)] = 1
        mask = Image.fromarray((255 * light.reshape(grid)).astype(np.uint8)).resize(
            (_SIDE, _SIDE), Image.Resampling.NEAREST
        )
        shown = Image.new("RGB", (_SIDE, _SIDE), "white")
        shown.paste(picture.convert("RGB").resize((_SIDE, _SIDE)), mask=mask)
        montage.paste(shown, (number * (_SIDE + _GAP), 0))
    return montage
