"""Figures of the page: kept patches over the image, score maps and attention maps."""

import math
import textwrap
from collections.abc import Sequence
from io import BytesIO
from typing import Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase, SubFigure
from PIL import Image
from scipy.stats import rankdata

from foveate.analysis.clips import KeptClip
from foveate.analysis.drawing import FAINT, INK, RIGHT, WRONG, draw_outline, house_style
from foveate.evaluation.evidence import visible_part
from foveate.explore.inspection import Inspection, Maps, Prompt
from foveate.models.backbone.pixels import WHITE, Normalisation

SIDE = 360
"""Pixels of the longer side of a view, about."""
_MERGED = 0.5  # share of a merged patch's own colour
_DPI = 110


Part = Literal["tower", "last", "question", "answer"]
"""A kind of attention map, by its name in `Maps`."""


class Pane(NamedTuple):
    """A view of an image, with the numbers of its patches.

    Attributes:
        pixels: (height, width, 3) in [0, 1]; height and width are multiples of the grid's.
        patches: (rows, columns) number of each patch.
    """

    pixels: np.ndarray
    patches: np.ndarray

    @property
    def scale(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return self.pixels.shape[0] // self.patches.shape[0], self.pixels.shape[1] // self.patches.shape[1]

    def marked(self, patches: Sequence[int]) -> np.ndarray:
        """Returns the mask (rows, columns) of some patches."""
        return np.isin(self.patches, patches)


class Column(NamedTuple):
    """A method's part of the exported figure.

    Attributes:
        name: Name of the method, with its budget and options.
        inspection: What it keeps and answers.
        changed: Whether the answer differs from that of all patches.
    """

    name: str
    inspection: Inspection
    changed: bool


def panes_of(prompt: Prompt) -> tuple[Pane, ...]:
    """Returns one pane per view of a prompt's image."""
    first, panes = 0, []
    for image, view in zip(_views(prompt), prompt.arrangement.views, strict=True):
        numbers = np.arange(first, first + view.patches).reshape(view.rows, view.columns)
        side = max(1, SIDE // max(view.rows, view.columns))
        shown = image.convert("RGB").resize((view.columns * side, view.rows * side))
        panes.append(Pane(np.asarray(shown, float) / 255, numbers))
        first += view.patches
    return tuple(panes)


def panes_of_clip(clip: KeptClip) -> tuple[Pane, ...]:
    """Returns one pane per frame of a video."""
    numbers = np.arange(clip.kept.size).reshape(clip.kept.shape)
    return tuple(Pane(pixels, patches) for pixels, patches in zip(clip.frames, numbers, strict=True))


def enlarged(image: Image.Image, side: int) -> Image.Image:
    """Returns a small image enlarged by a whole factor to at most `side` pixels, so that its pixels stay sharp."""
    factor = max(1, side // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _views(prompt: Prompt) -> list[Image.Image]:
    """Returns the part of the image that each view shows."""
    adapter, (image,) = prompt.adapter, prompt.frames
    width, height = image.size
    views, boxes = prompt.arrangement.views, prompt.arrangement.boxes
    if adapter.fixed_grid:
        return [visible_part(prompt.loaded, image, views[0])]
    if boxes:
        corners = [(left * width, top * height, right * width, bottom * height) for top, left, bottom, right in boxes]
        return [image.crop((int(a), int(b), round(c), round(d))) for a, b, c, d in corners]
    pixels = adapter.pixels(prompt.images, prompt.arrangement)[0]
    light = Normalisation.of(adapter.image_processor).undone(pixels.cpu()).float() / WHITE
    tiles = (255 * light.clamp(0, 1)).byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(tile) for tile in tiles]


def draw_kept(pane: Pane, kept: Sequence[int], merged: Sequence[int], ax: Axes) -> Axes:
    """Draws a view with dropped patches in grey and merged ones half in grey."""
    grey = 0.66 + 0.3 * pane.pixels.mean(-1, keepdims=True)
    colour = pane.marked(kept) + _MERGED * pane.marked(merged)
    share = np.kron(colour, np.ones(pane.scale))[..., None]
    ax.imshow(share * pane.pixels + (1 - share) * grey, interpolation="nearest")
    return _bare(ax)


def draw_map(pane: Pane, values: np.ndarray, ax: Axes) -> Axes:
    """Draws a number per patch, from dark (0) to light (the largest); patches without a number are grey.

    Args:
        pane: The view.
        values: (patch,) one number per patch of the image, from 0 up.
        ax: Axes to draw on.
    """
    ax.imshow(mapped(pane, values), interpolation="nearest")
    return _bare(ax)


def mapped(pane: Pane, values: np.ndarray) -> np.ndarray:
    """Returns the pixels (height, width, 4) in [0, 1] of a map; see `draw_map`."""
    colours = mpl.colormaps["viridis"].with_extremes(bad="#d9d9d9")
    highest = max(np.nanmax(values, initial=0.0), np.finfo(float).tiny)
    top, left = pane.scale
    return colours(np.ma.masked_invalid(values[pane.patches]) / highest).repeat(top, 0).repeat(left, 1)


def method_figure(panes: Sequence[Pane], inspection: Inspection, evidence: np.ndarray | None) -> Figure:
    """Draws the kept patches over the image, and below them the scores, coloured by their ranks."""
    with house_style():
        figure = Figure(figsize=(2.5, 2 * _height(panes, 2.5) + 0.4), layout="constrained")
        above, below = _parts(figure, 2, 1)
        _fill(panes, inspection, evidence, (above, below))
        below.supxlabel(score_range(inspection), fontsize=9, color=FAINT)
    return figure


def map_figure(panes: Sequence[Pane], maps: Sequence[tuple[str, np.ndarray]]) -> Figure:
    """Draws attention maps side by side, coloured by their square roots, with largest weight and sum over patches."""
    with house_style():
        figure = Figure(figsize=(2.5 * len(maps), _height(panes, 2.5) + 0.5), layout="constrained")
        for part, (name, values) in zip(_parts(figure, 1, len(maps)), maps, strict=True):
            for pane, ax in zip(panes, _axes(part, len(panes)), strict=True):
                draw_map(pane, np.sqrt(values), ax)
            weights = f"largest weight {values.max():.3f}, sum {values.sum():.2f}"
            part.supxlabel(f"{name}\n{weights}", fontsize=9, color=INK)
    return figure


def comparison_figure(prompt: Prompt, panes: Sequence[Pane], full: Inspection, columns: Sequence[Column]) -> Figure:
    """Draws all methods side by side, with question and answers: the figure that the page exports."""
    with house_style():
        size = max(6.0, 2.6 * len(columns)), 2 * _height(panes, 2.6) + 1.4
        figure = Figure(figsize=size, layout="constrained")
        for part, column in zip(_parts(figure, 1, len(columns)), columns, strict=True):
            above, below = _parts(part, 2, 1)
            _fill(panes, column.inspection, prompt.evidence, (above, below))
            above.suptitle(textwrap.fill(column.name, 28), fontsize=10)
            colour = WRONG if column.changed else RIGHT
            answer = textwrap.shorten(column.inspection.answer, 60) or "(empty answer)"
            above.supxlabel(textwrap.fill(answer, 26), fontsize=10, color=colour)
            below.supxlabel(score_range(column.inspection), fontsize=9, color=FAINT)
        whole = textwrap.shorten(full.answer, 60) or "(empty answer)"
        title = f"{textwrap.shorten(prompt.question, 160)} All patches: {whole}"
        figure.suptitle(textwrap.fill(title, int(11 * figure.get_figwidth())), fontsize=11, x=0.01, ha="left")
    return figure


def score_range(inspection: Inspection) -> str:
    """Returns a line with the smallest and the largest score."""
    known = inspection.scores[np.isfinite(inspection.scores)]
    if not len(known) or known.min() == known.max():
        return "no scores: all are equal"
    return f"scores {known.min():.3g} to {known.max():.3g}"


def ranks_of(inspection: Inspection) -> np.ndarray:
    """Returns the ranks (patch,) of the scores, 1 of the lowest; NaN where there is none or all are equal."""
    ranks = rankdata(inspection.scores, nan_policy="omit")
    equal = np.nanmin(ranks, initial=np.inf) == np.nanmax(ranks, initial=0)
    return np.full_like(ranks, np.nan) if equal else ranks


def attention_at(maps: Maps, part: Part, row: int, head: int | None) -> np.ndarray:
    """Returns one map (patch,): of a layer or block and one head, or of None for the mean over heads."""
    rows: np.ndarray = getattr(maps, part)[row]
    return rows.mean(0) if head is None else rows[head]


def as_image(figure: Figure) -> Image.Image:
    """Returns a figure as an image."""
    png = BytesIO()
    figure.savefig(png, format="png", dpi=_DPI)
    return Image.open(png)


def _fill(
    panes: Sequence[Pane], inspection: Inspection, evidence: np.ndarray | None, parts: tuple[FigureBase, FigureBase]
) -> None:
    """Draws the kept patches in the first part of a figure, and the scores in the second."""
    ranks = ranks_of(inspection)
    for pane, above, below in zip(panes, *(_axes(part, len(panes)) for part in parts), strict=True):
        draw_kept(pane, inspection.kept, inspection.merged, above)
        if evidence is not None:
            draw_outline(evidence[pane.patches], pane.scale, (3, 1.2), above)
        draw_map(pane, ranks, below)


def _height(panes: Sequence[Pane], width: float) -> float:
    """Returns the height in inches of all views in a figure of some width, with room for a line of text."""
    across = math.ceil(math.sqrt(len(panes)))
    aspect = max(pane.pixels.shape[0] / pane.pixels.shape[1] for pane in panes)
    return width * min(aspect, 2.0) * math.ceil(len(panes) / across) / across + 0.15


def _parts(figure: FigureBase, down: int, across: int) -> list[SubFigure]:
    """Returns the parts of a figure, row by row."""
    grid = figure.add_gridspec(down, across)
    return [figure.add_subfigure(grid[row, column]) for row in range(down) for column in range(across)]


def _axes(part: FigureBase, count: int) -> list[Axes]:
    """Returns axes in about as many rows as columns."""
    across = math.ceil(math.sqrt(count))
    grid = part.subplots(math.ceil(count / across), across, squeeze=False)
    for ax in grid.flat[count:]:
        ax.set_visible(False)
    return list(grid.flat[:count])


def _bare(ax: Axes) -> Axes:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax
