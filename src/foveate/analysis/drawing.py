"""Shared parts of figures: colours, style, labels that do not overlap, captions and files."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image
from scipy.optimize import isotonic_regression

from foveate.core.storage import atomic_write

_HUES = dict(zip(("blue", "orange", "green", "red", "pink"), sns.color_palette("colorblind"), strict=False))
INK, FAINT = "#222222", "#767676"
COLOURS = {
    "full": INK,
    "evidence": _HUES["pink"],
    "single": _HUES["blue"],
    "suffix": _HUES["orange"],
    "all": _HUES["green"],
    "uniform": "#9c5a1c",  # a brown dark enough for text
    "fastv": "#6a3d9a",
    "random": FAINT,
    **dict.fromkeys(("saturation", "contrast", "edges"), "#6b6b00"),  # pixel filters
}
RIGHT, WRONG = _HUES["green"], _HUES["red"]


class Label(NamedTuple):
    """The name of a line that ends at (x, y), in data coordinates."""

    x: float
    y: float
    text: str
    colour: object


def readable(scorer: str, family: str, layers: str) -> str:
    """Returns the name of a scorer in figures."""
    names = {
        "full": "all patches",
        "single": f"layer {layers}",
        "suffix": f"sum of {layers}",
        "all": "sum of all layers",
        "random": "random",
        "evidence": "evidence (oracle)",
    }
    return names.get(family, scorer)


_UNDATED: dict[str, dict[str, None]] = {"png": {"Software": None}, "pdf": {"CreationDate": None}}
"""By format: metadata that differ between runs or versions and are left out."""


def house_style() -> AbstractContextManager[None]:
    """Returns a context in which new axes have the style of the project."""
    sizes = {"font.size": 12, "axes.labelsize": 12, "axes.titlesize": 13}
    lines = {"axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "grid.color": "#e6e6e6"}
    ink = {"text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT, "axes.titlelocation": "left"}
    look: Any = {**sns.axes_style("ticks"), **sizes, **lines, **ink, "font.family": "DejaVu Sans"}
    return mpl.rc_context(look)


def percent_axis(ax: Axes) -> None:
    """Formats the y axis as percentages, with a faint grid behind the data."""
    ax.tick_params(labelsize=11, color=FAINT, labelcolor=INK)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    ax.grid(axis="y", linewidth=0.8)
    ax.set_axisbelow(True)


def label_rows(ax: Axes, names: Sequence[str]) -> None:
    """Names horizontal rows at the heights n - 1 (the first name, at the top) to 0."""
    ax.set_yticks(np.arange(len(names))[::-1], names)
    ax.tick_params(labelsize=10.5, color=FAINT, labelcolor=INK)
    ax.set_ylim(-0.7, len(names) - 0.3)
    ax.grid(linewidth=0.8)
    ax.set_axisbelow(True)


def label_lines(ax: Axes, labels: Sequence[Label], size: int | float = 11) -> None:
    """Names lines at the right margin without overlap; a thin connector leads from each name to its line's end.

    The heights minimize the squared shifts for a given gap: isotonic regression of heights minus rank times gap.
    """
    ax.set_ylim(ax.get_ylim())  # the positions below hold for these limits
    bottom, top = ax.get_ylim()
    figure = ax.get_figure(root=True)
    assert figure is not None, "labels need axes that are part of a figure"
    height = ax.get_position().height * figure.get_figheight() * 72  # points
    labels = sorted(labels, key=lambda label: label.y)
    ranks = np.arange(len(labels)) * 1.2 * size / height
    wanted = np.array([(label.y - bottom) / (top - bottom) for label in labels])
    heights = isotonic_regression(wanted - ranks).x + ranks if labels else []
    # relpos: the connector starts at the left edge of the text, not at its centre
    connector: dict[str, Any] = {"arrowstyle": "-", "lw": 0.7, "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 2}
    for label, y in zip(labels, heights, strict=True):
        ax.annotate(
            label.text,
            (label.x, label.y),
            (1.05, y),
            textcoords="axes fraction",
            va="center",
            color=label.colour,
            fontsize=size,
            annotation_clip=False,
            arrowprops={**connector, "color": label.colour},
        )


def caption(figure: Figure, title: str, text: str) -> None:
    """Writes a title above the figure and a footnote below it, both left-aligned."""
    size = 10.5
    characters = int(figure.get_figwidth() * 72 / (0.55 * size))  # DejaVu Sans letters are about 0.55 em wide
    wide = int(figure.get_figwidth() * 72 / (0.68 * 15))  # bold letters are wider
    figure.suptitle(textwrap.fill(title, wide), x=0.01, ha="left", fontsize=15, fontweight="bold")
    figure.supxlabel(textwrap.fill(text, characters), x=0.01, ha="left", fontsize=size, color=FAINT)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG or PDF at 150 dpi atomically; the same figure gives the same bytes on the same machine."""
    kind = path.suffix[1:]
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=150, metadata=_UNDATED[kind])


def legend_of(axes: Iterable[Axes]) -> dict[str, Any]:
    """Returns the handles of several axes by name, each name once."""
    return {name: handle for ax in axes for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}


def legend_above(figure: Figure, shown: Mapping[str, Any], columns: int | None = None) -> None:
    """Draws a legend above all panels, where it covers no data.

    Args:
        figure: The figure, with a constrained layout.
        shown: Handles by name.
        columns: Number of columns; None puts all names into one row.
    """
    place = {"loc": "outside upper right", "ncols": columns or len(shown), "frameon": False, "fontsize": 11}
    figure.legend(shown.values(), shown.keys(), **place)


def pixels_of(image: Image.Image, grid: tuple[int, int]) -> np.ndarray:
    """Returns an image (height, width, 3) in [0, 1], enlarged to a whole number of pixels per patch.

    Args:
        image: The image.
        grid: Rows and columns of patches.
    """
    width, height = (math.ceil(size / patches) * patches for size, patches in zip(image.size, grid[::-1], strict=True))
    return np.asarray(image.convert("RGB").resize((width, height)), float) / 255


def draw_outline(mask: np.ndarray, scale: tuple[int, int], widths: tuple[float, float], ax: Axes) -> None:
    """Outlines the patches of a mask in white and black.

    Args:
        mask: (rows, columns) bool.
        scale: Height and width of a patch in pixels.
        widths: Line widths of the white and the black line.
        ax: Axes that show the image.
    """
    if mask.any():
        outline = np.pad(np.kron(mask, np.ones(scale)), 1)
        x, y = np.arange(outline.shape[1]) - 1, np.arange(outline.shape[0]) - 1
        for colour, width in zip(("white", "black"), widths, strict=True):
            ax.contour(x, y, outline, [0.5], colors=[colour], linewidths=width)


def mark_of(score: float) -> tuple[str, Any]:
    """Returns a check mark or a cross with its colour: correct means a score of 1."""
    return ("✓", RIGHT) if score == 1 else ("✗", WRONG)
