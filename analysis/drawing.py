"""What the figures share: colours, type sizes, labels that do not overlap, and files that appear complete."""

import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
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
    "uniform": "#9c5a1c",  # the brown of the palette, dark enough for text
    "random": FAINT,
    **dict.fromkeys(("saturation", "contrast", "edges"), "#6b6b00"),  # filters of pixels
}
RIGHT, WRONG = _HUES["green"], _HUES["red"]


class Label(NamedTuple):
    """A text that names the line which ends at (x, y), in data coordinates."""

    x: float
    y: float
    text: str
    colour: object


def readable(scorer: str, family: str, layers: str) -> str:
    """What a scorer is called in a figure."""
    names = {
        "full": "all patches",
        "single": f"layer {layers}",
        "suffix": f"sum of {layers}",
        "all": "sum of all layers",
        "random": "random",
        "evidence": "evidence (oracle)",
    }
    return names.get(family, scorer)


def house_style() -> AbstractContextManager[None]:
    """Within this block new axes have the look of the project; nothing outside changes."""
    sizes = {"font.size": 12, "axes.labelsize": 12, "axes.titlesize": 13}
    lines = {"axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "grid.color": "#e6e6e6"}
    ink = {"text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT, "axes.titlelocation": "left"}
    look: Any = {**sns.axes_style("ticks"), **sizes, **lines, **ink, "font.family": "DejaVu Sans"}
    return mpl.rc_context(look)


def percent_axis(ax: Axes) -> None:
    """Shares on the y axis as percentages, with a faint grid behind the data."""
    ax.tick_params(labelsize=11, color=FAINT, labelcolor=INK)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    ax.grid(axis="y", linewidth=0.8)
    ax.set_axisbelow(True)


def label_lines(ax: Axes, labels: Sequence[Label], size: float = 11) -> None:
    """Names lines at the right margin, moved as little as keeps the texts apart; a hair leads to the line's end.

    The places are the least-squares ones with a given gap: isotonic regression of the heights less rank times gap.
    """
    ax.set_ylim(ax.get_ylim())  # the heights below hold for these limits
    bottom, top = ax.get_ylim()
    figure = ax.get_figure(root=True)
    assert figure is not None, "labels need axes that are part of a figure"
    height = ax.get_position().height * figure.get_figheight() * 72  # points
    labels = sorted(labels, key=lambda label: label.y)
    ranks = np.arange(len(labels)) * 1.2 * size / height
    wanted = np.array([(label.y - bottom) / (top - bottom) for label in labels])
    places = isotonic_regression(wanted - ranks).x + ranks if labels else []
    # relpos: the hair starts at the left edge of the text, not at its centre
    hair: dict[str, Any] = {"arrowstyle": "-", "lw": 0.7, "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 2}
    for label, place in zip(labels, places, strict=True):
        ax.annotate(
            label.text,
            (label.x, label.y),
            (1.05, place),
            textcoords="axes fraction",
            va="center",
            color=label.colour,
            fontsize=size,
            annotation_clip=False,
            arrowprops={**hair, "color": label.colour},
        )


def caption(figure: Figure, title: str, text: str) -> None:
    """A title above the figure and faint lines below it, both left-aligned."""
    size = 10.5
    characters = int(figure.get_figwidth() * 72 / (0.55 * size))  # DejaVu Sans letters are about 0.55 em wide
    wide = int(figure.get_figwidth() * 72 / (0.68 * 15))  # bold letters are wider
    figure.suptitle(textwrap.fill(title, wide), x=0.01, ha="left", fontsize=15, fontweight="bold")
    figure.supxlabel(textwrap.fill(text, characters), x=0.01, ha="left", fontsize=size, color=FAINT)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG at 150 dpi, complete or not at all, with nothing in it that depends on when or where it was made."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
