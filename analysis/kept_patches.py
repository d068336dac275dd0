"""Which patches were kept of example images, and what was answered then."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from analysis.ablation.data import Cell
from analysis.drawing import FAINT, RIGHT, WRONG, caption, house_style, readable
from analysis.records import read_records


class Panel(NamedTuple):
    """One image after one compression.

    Attributes:
        pixels: (height, width, 3) in [0, 1]; height and width are multiples of the grid's.
        kept: (rows, columns) bool.
        evidence: The same for the patches that hold the answer, or None.
        prediction: The answer given.
        score: Its score.
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


def kept_patches_data(
    cells: Sequence[Cell],
    out: Path,
    images: Mapping[str, Image.Image],
    grid: tuple[int, int],
    evidence: Mapping[str, np.ndarray] | None = None,
    rows: int = 4,
) -> KeptPatches:
    """Picks questions on whose answers the cells differ, each of another kind and image as far as possible.

    Args:
        cells: One per column, in this order.
        out: Folder that holds `records/`.
        images: By `image_id`, as the vision tower sees them (cropped); questions about other images are not picked.
        grid: Rows and columns of patches.
        evidence: By `sample_id`, (rows, columns) bool: patches that hold the answer.
        rows: How many questions.
    """
    records = {cell.scorer: read_records(out, cell.run_id).set_index("sample_id") for cell in cells}
    chosen = _examples(list(records.values()), images, rows)
    panels = tuple(
        tuple(_panel(frame.loc[sample], images, grid, (evidence or {}).get(sample)) for frame in records.values())
        for sample in chosen.index
    )
    columns = tuple(readable(cell.scorer, cell.family, cell.layers) for cell in cells)
    keep, patches = min(cell.keep for cell in cells), grid[0] * grid[1]
    return KeptPatches(keep, patches, columns, tuple(chosen["question"]), tuple(chosen["reference"]), panels)


def draw_kept_patches(data: Panel, ax: Axes) -> Axes:
    """The image with dropped patches faded, the evidence outlined, and the answer below: green if right, else red."""
    scale = data.pixels.shape[0] // data.kept.shape[0], data.pixels.shape[1] // data.kept.shape[1]
    grey = 0.66 + 0.3 * data.pixels.mean(-1, keepdims=True)
    ax.imshow(np.where(np.kron(data.kept, np.ones(scale))[..., None] > 0, data.pixels, grey), interpolation="nearest")
    if data.evidence is not None and data.evidence.any():
        outline = np.pad(np.kron(data.evidence, np.ones(scale)), 1)
        height, width = outline.shape
        ax.contour(np.arange(width) - 1, np.arange(height) - 1, outline, [0.5], colors=["white"], linewidths=3)
        ax.contour(np.arange(width) - 1, np.arange(height) - 1, outline, [0.5], colors=["black"], linewidths=1.2)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    mark, colour = ("✓", RIGHT) if data.score == 1 else ("✗", WRONG)
    partial = f" ({data.score:.2f})" if 0 < data.score < 1 else ""
    ax.set_xlabel(textwrap.fill(f"{mark} {data.prediction}{partial}", 20), color=colour, fontsize=10, labelpad=3)
    return ax


def kept_patches_figure(data: KeptPatches, kept: str | None = None) -> Figure:
    """A row per question, which stands at the left, and a column per cell; `kept` says how many patches remain."""
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
            f"{kept or f'{data.keep} of {data.patches} patches kept'}, the others faded; "
            f"{'outlined: what must be seen; ' if outlined else ''}below: the answer given. These questions were "
            "picked because the answers differ, so they say nothing about accuracy."
        )
        caption(figure, "What was kept, and what was answered then", note)
    return figure


def _examples(frames: Sequence[pd.DataFrame], images: Mapping[str, Image.Image], rows: int) -> pd.DataFrame:
    """Those that the first column answers right and the others most differently; kinds and images vary first."""
    scores = pd.concat([frame["score"] for frame in frames], axis=1)
    asked = frames[0].assign(right=frames[0]["score"] == 1, spread=scores.std(axis=1, ddof=0).round(9))
    asked = asked[asked["image_id"].isin(list(images))].sort_index()  # ties go to the lower sample_id
    asked = asked.sort_values(["right", "spread"], ascending=False, kind="stable")
    varied = asked.drop_duplicates("kind").drop_duplicates("image_id")
    return pd.concat([varied, asked.drop(varied.index)]).head(rows)


def _panel(
    row: pd.Series, images: Mapping[str, Image.Image], grid: tuple[int, int], evidence: np.ndarray | None
) -> Panel:
    image = images[row["image_id"]].convert("RGB")
    width, height = (math.ceil(size / patches) * patches for size, patches in zip(image.size, grid[::-1], strict=True))
    pixels = np.asarray(image.resize((width, height)), float) / 255
    kept = np.zeros(grid, bool)
    kept.flat[np.asarray(row["kept"], int)] = True
    return Panel(pixels, kept, evidence, row["prediction"], row["score"])
