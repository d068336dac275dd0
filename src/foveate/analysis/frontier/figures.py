"""Figure of a frontier: accuracy on the plane of image size and budget, and accuracy by time."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from foveate.analysis.cells import BUDGETLESS
from foveate.analysis.drawing import COLOURS, FAINT, INK, Label, caption, house_style, label_lines, percent_axis
from foveate.analysis.frontier.data import DOWNSAMPLE, RANDOM
from foveate.analysis.tables import accuracy

_NOTE = (
    "n = {n:,} questions about {images:,} images. Left: accuracy in % of {method} with a budget of equivalent tokens "
    "(columns) on images of a size (rows: their tokens before the method; the top row is full size), and of controls. "
    "Boxes: the best mix of each budget, chosen on half of the images, and its accuracy on the other half. Right: bars "
    "are 95 % intervals over images; dashed: no compression."
)


class Plane(NamedTuple):
    """The accuracy of one method on images of every size, and of the controls.

    Attributes:
        method: Name of the method.
        accuracy: Rows by size ("144 tokens") and control, columns by budget, largest first; NaN where there is no cell.
        best: Row, column and text of each budget's best mix: chosen on half of the images, its accuracy with interval
            on the other half.
    """

    method: str
    accuracy: pd.DataFrame
    best: Sequence[tuple[str, int, str]]


class Times(NamedTuple):
    """Accuracy by time.

    Attributes:
        curves: By name, the columns ms, accuracy, ci_low and ci_high by rising time.
        full: Accuracy and milliseconds of the uncompressed model, or None.
    """

    curves: dict[str, pd.DataFrame]
    full: tuple[float, float] | None


def planes_data(table: pd.DataFrame, best: dict[int, pd.Series]) -> list[Plane]:
    """Returns the plane of every method.

    Args:
        table: Table of `frontier_table`.
        best: The best mixes by budget; see `frontier.data.chosen`.
    """
    rows = table[~table["method"].isin(BUDGETLESS)]
    methods = rows.loc[rows["role"] != "control", "method"].str.partition("@")[0]
    planes = []
    for method in dict.fromkeys(methods):
        own = rows[(rows["method"].str.partition("@")[0] == method) | rows["method"].isin((DOWNSAMPLE, RANDOM))]
        named = own.assign(row=[_row_of(one["method"], one["image_tokens"]) for _, one in own.iterrows()])
        wide = named.pivot(index="row", columns="budget", values="accuracy")
        sizes = named[named["role"] != "control"].sort_values("image_tokens", ascending=False)["row"].unique()
        wide = wide.reindex([*sizes, *(name for name in (DOWNSAMPLE, RANDOM) if name in wide.index)])
        here = {budget: row for budget, row in best.items() if row["chosen"].partition("@")[0] == method}
        marks = [(f"{row['chosen'].partition('@')[2]} tokens", keep, accuracy(row)) for keep, row in here.items()]
        planes.append(Plane(method, wide[sorted(wide.columns, reverse=True)], marks))
    return planes


def times_data(table: pd.DataFrame) -> Times:
    """Returns accuracy by time of every method at every size, and of the controls."""
    rows = table[table["ms"].notna()]
    full = rows[rows["method"] == "full"]
    curves = {
        str(method): some.sort_values("ms")[["ms", "accuracy", "ci_low", "ci_high"]]
        for method, some in rows[~rows["method"].isin(BUDGETLESS)].groupby("method", sort=False)
    }
    return Times(curves, None if full.empty else (float(full["accuracy"].iloc[0]), float(full["ms"].iloc[0])))


def draw_plane(data: Plane, ax: Axes) -> Axes:
    """Draws the accuracies as a labelled heat map, and a box around each best mix."""
    values = 100 * data.accuracy
    sns.heatmap(values, ax=ax, annot=True, fmt=".1f", cmap="cividis", cbar=False, linewidths=1, annot_kws={"size": 11})
    for row, column, text in data.best:
        place = [*map(int, values.columns)].index(column), [*map(str, values.index)].index(row)
        ax.text(place[0] + 0.5, place[1] + 0.82, text, ha="center", va="center", fontsize=8.5, color="white")
        ax.add_patch(
            Rectangle((place[0], place[1]), 1, 1, fill=False, ec=COLOURS["suffix"], lw=3, clip_on=False, zorder=3)
        )
    ax.set_title(data.method)
    ax.set_xlabel("budget, equivalent tokens")
    ax.set_ylabel("")
    ax.tick_params(rotation=0, length=0)
    return ax


def draw_times(data: Times, ax: Axes) -> Axes:
    """Draws accuracy by milliseconds, one line per method and size."""
    names = [name for name in data.curves if name not in (DOWNSAMPLE, RANDOM)]
    hues: Any = dict(zip(names, sns.color_palette("viridis", len(names)), strict=True))
    hues |= {DOWNSAMPLE: COLOURS["suffix"], RANDOM: FAINT}
    if data.full is not None:
        ax.axhline(data.full[0], color=INK, ls="--", lw=1.2, zorder=1)
        ax.plot(data.full[1], data.full[0], "*", color=INK, ms=11)
    labels = []
    for name, points in data.curves.items():
        style = "--" if name in (DOWNSAMPLE, RANDOM) else "-"
        error = [points["accuracy"] - points["ci_low"], points["ci_high"] - points["accuracy"]]
        ax.errorbar(points["ms"], points["accuracy"], error, color=hues[name], ls=style, marker="o", ms=5, lw=1.4)
        labels.append(Label(points["ms"].iloc[-1], points["accuracy"].iloc[-1], name, hues[name]))
    percent_axis(ax)
    ax.set_xlabel("milliseconds per question: tower, method and language model")
    ax.set_ylabel("accuracy")
    label_lines(ax, labels, size=10)
    return ax


def frontier_figure(planes: Sequence[Plane], times: Times, size: tuple[int, int], source: str = "") -> Figure:
    """Draws a plane per method, and beside them accuracy by time if times were measured.

    Args:
        planes: The planes.
        times: The times.
        size: Number of questions and images.
        source: Model, data and split, for the footnote.
    """
    timed = bool(times.curves)
    tall = max(len(plane.accuracy) for plane in planes)
    with house_style():
        widths = [*(1.6 + 1.2 * len(plane.accuracy.columns) for plane in planes), *([7.5] if timed else [])]
        figure = Figure(figsize=(sum(widths) + 1, max(4.5, 0.6 * tall + 2.2)), layout="constrained")
        axes = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
        for plane, ax in zip(planes, axes, strict=False):
            draw_plane(plane, ax)
        if timed:
            draw_times(times, axes[-1])
        methods = " or ".join(plane.method for plane in planes)
        note = _NOTE.format(n=size[0], images=size[1], method=methods)
        caption(figure, "Smaller images, fewer of their tokens, or both", f"{note} {source}".strip())
    return figure


def _row_of(method: str, tokens: float) -> str:
    return method if method in (DOWNSAMPLE, RANDOM) else f"{np.int64(tokens)} tokens"
