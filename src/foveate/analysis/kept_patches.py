"""Kept patches of example images: the setting of a study, a figure per study and an overlay per run."""

import textwrap
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import optuna
import pandas as pd
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from foveate.analysis.cells import Cell
from foveate.analysis.clips import KeptClip
from foveate.analysis.drawing import FAINT, caption, draw_outline, house_style, mark_of, pixels_of, readable
from foveate.analysis.kept_frames import clips_of, kept_frames_of_run
from foveate.analysis.records import read_records
from foveate.core.arrangement import Arrangement, Grid
from foveate.data.names import shown_name
from foveate.data.sample import LazyMapping, VQASample, first_of_images
from foveate.evaluation import EvalConfig
from foveate.evaluation.evidence import evidence_of, visible_part
from foveate.evaluation.run import cached_load, data_of
from foveate.metrics.evidence import SHOWN

IMAGES = 4
_SIDE, _GAP = 192, 8  # pixels of an overlay
_DIMMED = 0.22  # brightness of dropped patches


class Setting(NamedTuple):
    """Facts of a study that its records do not hold.

    Attributes:
        feature_layer: Layer that writes the features.
        depth: Number of layers of the vision tower.
        grid: Rows and columns of patches.
        images: Images by `image_id`, as the vision tower sees them; empty if it does not see an image in one grid.
        evidence: Mask (rows, columns) of the patches with evidence, by `sample_id`; empty if unknown.
        source: Model, data and split, for the footnotes of figures.
        videos: Videos with their evidence, by `sample_id`; empty if no question is about one.
    """

    feature_layer: int
    depth: int
    grid: tuple[int, int]
    images: Mapping[str, Image.Image]
    evidence: Mapping[str, np.ndarray]
    source: str = ""
    videos: Mapping[str, KeptClip] = MappingProxyType({})


class Panel(NamedTuple):
    """One image after one compression.

    Attributes:
        pixels: (height, width, 3) in [0, 1]; height and width are multiples of the grid's.
        kept: (rows, columns) bool.
        evidence: (rows, columns) bool mask of the patches with evidence, or None.
        prediction: The model's answer.
        score: Score of the answer.
    """

    pixels: np.ndarray
    kept: np.ndarray
    evidence: np.ndarray | None
    prediction: str
    score: float


class KeptPatches(NamedTuple):
    """Example questions, each with one panel per column."""

    keep: int
    patches: int
    columns: tuple[str, ...]
    questions: tuple[str, ...]
    references: tuple[str, ...]
    panels: tuple[tuple[Panel, ...], ...]


def setting_of(study: optuna.Study, config: EvalConfig) -> Setting:
    """Returns the model's facts from the study, and the images with their evidence from the data set."""
    facts = study.user_attrs
    samples, _ = data_of(config)
    grid = Grid(*facts["grid"])
    loaded = cached_load(config.model, config.device, config.dtype)
    source = f"Model {Path(config.model).name}, data {shown_name(config.data)}, split {config.split}."

    def shown(sample: VQASample) -> np.ndarray:
        share = evidence_of([sample], [Arrangement((grid,))], loaded)[0]
        return (share >= SHOWN).any(0).reshape(grid.rows, grid.columns).numpy()

    setting = Setting(facts["feature_layer"], facts["depth"], (grid.rows, grid.columns), {}, {}, source)
    if any(sample.video for sample in samples):
        return setting._replace(videos=clips_of(samples, loaded))
    if not loaded.adapter.fixed_grid:
        return setting
    return setting._replace(
        images=LazyMapping(first_of_images(samples), lambda sample: visible_part(loaded, sample.image, grid)),
        evidence=LazyMapping({sample.id: sample for sample in samples if sample.things.known}, shown),
    )


def kept_patches_data(
    cells: Sequence[Cell], out: Path, setting: Setting, rows: int = 4, questions: Sequence[str] = ()
) -> KeptPatches:
    """Returns questions with their panels: those named, or some whose answers differ between the cells.

    Questions are of different kinds and images where possible, unless they are named.

    Args:
        cells: One cell per column, in this order.
        out: Folder that holds `records/`.
        setting: Images, grid and evidence; questions about other images are not chosen.
        rows: Number of questions, unless they are named.
        questions: The questions by `sample_id`; empty chooses them.
    """
    frames = [read_records(out, cell.run_id).set_index("sample_id") for cell in cells]
    chosen = frames[0].loc[list(questions)] if questions else _examples(frames, setting.images, rows)
    panels = tuple(tuple(_panel(frame.loc[sample], setting, sample) for frame in frames) for sample in chosen.index)
    columns = tuple(readable(cell.scorer, cell.family, cell.layers) for cell in cells)
    keep, patches = min(cell.keep for cell in cells), setting.grid[0] * setting.grid[1]
    return KeptPatches(keep, patches, columns, tuple(chosen["question"]), tuple(chosen["reference"]), panels)


def draw_kept_patches(data: Panel, ax: Axes) -> Axes:
    """Draws the image with dropped patches faded, the evidence outlined and the answer below, coloured by its score."""
    scale = data.pixels.shape[0] // data.kept.shape[0], data.pixels.shape[1] // data.kept.shape[1]
    grey = 0.66 + 0.3 * data.pixels.mean(-1, keepdims=True)
    ax.imshow(np.where(np.kron(data.kept, np.ones(scale))[..., None] > 0, data.pixels, grey), interpolation="nearest")
    if data.evidence is not None:
        draw_outline(data.evidence, scale, (3, 1.2), ax)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    mark, colour = mark_of(data.score)
    partial = f" ({data.score:.2f})" if 0 < data.score < 1 else ""
    ax.set_xlabel(textwrap.fill(f"{mark} {data.prediction}{partial}", 20), color=colour, fontsize=10, labelpad=3)
    return ax


def kept_patches_figure(data: KeptPatches, kept: str | None = None) -> Figure:
    """Draws a row per question and a column per cell.

    Args:
        data: Result of `kept_patches_data`.
        kept: Number of kept patches for the footnote; None means the smallest of the cells.
    """
    rows, columns = len(data.panels), len(data.columns)
    with house_style():
        figure = Figure(figsize=(1.55 * columns + 1.5, 2.05 * rows + 0.9), layout="constrained")
        grid = figure.subplots(rows, columns + 1, squeeze=False)
        for row, question, reference, panels in zip(grid, data.questions, data.references, data.panels, strict=True):
            row[0].axis("off")
            row[0].text(0, 0.97, textwrap.fill(question, 19), va="top", fontsize=11)
            row[0].text(0, 0.03, textwrap.fill(f"answer: {reference}", 19), va="bottom", fontsize=10, color=FAINT)
            for ax, panel in zip(row[1:], panels, strict=True):
                draw_kept_patches(panel, ax)
        for ax, name in zip(grid[0, 1:], data.columns, strict=True):
            ax.set_title(name, fontsize=11, loc="center")
        outlined = any(panel.evidence is not None for panels in data.panels for panel in panels)
        note = (
            f"{kept or f'{data.keep} of {data.patches} patches kept'}; dropped patches are faded"
            f"{', evidence is outlined' if outlined else ''}. Below: the model's answer. The questions were chosen "
            "because their answers differ, so they are not representative."
        )
        caption(figure, "Kept patches and answers", note)
    return figure


def kept_figure(config: EvalConfig, records: pa.Table) -> bytes:
    """Returns a PNG overlay of the kept patches of the first images of a run, for the first question about each.

    Of questions about videos, the first one is drawn frame by frame. Questions about several images are left out;
    without any other, nothing is drawn and the bytes are empty.
    """
    samples, _ = data_of(config)
    loaded = cached_load(config.model, config.device, config.dtype)
    if any(sample.video for sample in samples):
        return kept_frames_of_run(records, clips_of(samples, loaded))
    kept = dict(zip(records["sample_id"].to_pylist(), records["kept"].to_pylist(), strict=True))
    first = first_of_images([sample for sample in samples if sample.id in kept])
    shown = sorted(first.values(), key=lambda sample: sample.image_id)[:IMAGES]
    if not shown:
        return b""
    arrangements = [loaded.image_inputs([sample.image])[1][0] for sample in shown]
    images = [visible_part(loaded, sample.image, loaded.adapter.tower.grid) for sample in shown]
    brightness = [brightness_of(image, kept[sample.id]) for image, sample in zip(arrangements, shown, strict=True)]
    png = BytesIO()
    kept_overlay(images, brightness).save(png, "PNG")
    return png.getvalue()


def brightness_of(image: Arrangement, kept: Sequence[int]) -> np.ndarray:
    """Returns the brightness (rows, columns) of the last view, which shows the whole image or its enlargement."""
    grid = image.views[-1]
    brightness = np.full(image.patches, _DIMMED)
    brightness[list(kept)] = 1
    return brightness[-grid.patches :].reshape(grid.rows, grid.columns)


def kept_overlay(images: Sequence[Image.Image], brightness: Sequence[np.ndarray]) -> Image.Image:
    """Returns the images side by side with dropped patches dimmed.

    Args:
        images: At least one image.
        brightness: (rows, columns) per image, as `brightness_of` returns it.
    """
    montage = Image.new("RGB", (len(images) * (_SIDE + _GAP) - _GAP, _SIDE), "white")
    for number, (image, light) in enumerate(zip(images, brightness, strict=True)):
        mask = Image.fromarray((255 * light).astype(np.uint8)).resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
        shown = Image.new("RGB", (_SIDE, _SIDE), "white")
        shown.paste(image.convert("RGB").resize((_SIDE, _SIDE)), mask=mask)
        montage.paste(shown, (number * (_SIDE + _GAP), 0))
    return montage


def _examples(frames: Sequence[pd.DataFrame], images: Mapping[str, Image.Image], rows: int) -> pd.DataFrame:
    """Returns questions that the first column answers correctly and the others differently; kinds and images vary."""
    scores = pd.concat([frame["score"] for frame in frames], axis=1)
    questions = frames[0].assign(right=frames[0]["score"] == 1, spread=scores.std(axis=1, ddof=0).round(9))
    questions = questions[questions["image_id"].isin(list(images))].sort_index()  # ties go to the lower sample_id
    questions = questions.sort_values(["right", "spread"], ascending=False, kind="stable")
    varied = questions.drop_duplicates("kind").drop_duplicates("image_id")
    return pd.concat([varied, questions.drop(varied.index)]).head(rows)


def _panel(row: pd.Series, setting: Setting, sample: str) -> Panel:
    kept = np.zeros(setting.grid, bool)
    kept.flat[np.asarray(row["kept"], int)] = True
    pixels = pixels_of(setting.images[row["image_id"]], setting.grid)
    return Panel(pixels, kept, setting.evidence.get(sample), row["prediction"], row["score"])
