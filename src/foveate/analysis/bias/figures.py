"""Figures of a bias measurement: measures by layer, pairs of signals, mean maps and curves."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, PercentFormatter

from foveate.analysis.bias.measurement import MeanMap
from foveate.analysis.bias.measures import DECODER, PERCENT, RANDOM, RESPONSES, TOWER
from foveate.analysis.drawing import (
    COLOURS,
    FAINT,
    INK,
    Label,
    caption,
    house_style,
    label_lines,
    legend_of,
    percent_axis,
)

_SKY, _VERMILION, _GREEN = sns.color_palette("colorblind")[9], COLOURS["suffix"], COLOURS["all"]
COLOURS_OF = {
    "cls": COLOURS["single"],
    "cls sum": _SKY,
    "received": "#6a4c93",
    "prompt": sns.color_palette("colorblind")[3],
    "question": _VERMILION,
    "every": "#8a8000",
    "response": _GREEN,
    "answer": "#0b6e4f",
    "evidence": COLOURS["evidence"],
    "occlusion": INK,
    "thinned": "#5a5a8a",
    "random": COLOURS["random"],
    "uniform": COLOURS["uniform"],
}
MARKERS = dict(zip(COLOURS_OF, "osDovXs*pPXhDd", strict=False))
NAMES = {
    "cls": "[CLS] of one layer",
    "cls sum": "[CLS], sum of layers",
    "received": "received from patches",
    "prompt": "last prompt token",
    "question": "question tokens",
    "every": "all prompt tokens",
    "response": "response",
    "answer": "answer's own tokens",
    "evidence": "evidence (oracle)",
    "occlusion": "judge: block removed",
    "thinned": "judge: thinned context",
    "random": "random",
    "uniform": "even grid",
}
BY_LAYER = {
    "spearman_response": "Spearman with\nthe response",
    "spearman_answer": "Spearman with the\nanswer's own tokens",
    "evidence_recall": "evidence recall",
    "thinned_share": "worth in the top\n(thinned context)",
    "row_correlation": "row correlation\n(above 0: lower rows)",
}
_PAIRS = {"spearman": "Spearman", "kendall": "Kendall", "overlap": "top overlap"}
_DOUBLINGS: Any = {"norm": Normalize(-2, 2), "cmap": "PuOr_r"}
_SIZE = "n = {n:,} questions about {images:,} images"


def draw_layers(summary: pd.DataFrame, measure: str, names: Sequence[str], ax: Axes) -> Axes:
    """Draws lines with bands over single layers, broken lines over the layers of a sum, and dashed lines for controls.

    Args:
        summary: Table of `summary_table`.
        measure: Column of the table.
        names: Signals of one side of the model.
        ax: Axes to draw on.
    """
    rows = summary[summary["signal"].isin(names)].dropna(subset=measure)
    for signal in (name for name in names if name in set(rows["signal"])):
        some, style = rows[rows["signal"] == signal], {"color": COLOURS_OF[signal], "marker": MARKERS[signal]}
        single = some[some["layers"].str.isdigit()]
        x = single["layers"].astype(int)
        ax.fill_between(x, single[f"{measure}_low"], single[f"{measure}_high"], color=style["color"], alpha=0.16, lw=0)
        ax.plot(x, single[measure], lw=1.8, ms=6, mec="white", mew=0.8, label=NAMES[signal], **style)
        for _, row in some[~some["layers"].str.isdigit()].iterrows():
            if signal in RESPONSES and measure.endswith(f"_{signal}"):
                continue  # compared with itself
            first, last = map(int, row["layers"].split("-"))
            low, high = row[f"{measure}_low"], row[f"{measure}_high"]
            ax.fill_between([first, last], low, high, color=style["color"], alpha=0.16, lw=0)
            ax.plot([first, last], [row[measure]] * 2, lw=1.8, ms=5, ls=(0, (5, 1.5)), label=NAMES[signal], **style)
    for _, row in _controls(summary, measure).iterrows():
        dash = "--" if row["signal"] == RANDOM else ":"
        ax.axhline(row[measure], color=COLOURS_OF[row["signal"]], ls=dash, lw=1.3, zorder=1)
    ax.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
    ax.tick_params(labelsize=11, color=FAINT, labelcolor=INK)
    ax.grid(axis="y", linewidth=0.8)
    ax.set_axisbelow(True)
    if measure in PERCENT:
        percent_axis(ax)
    return ax


def layers_figure(summary: pd.DataFrame, source: str) -> Figure:
    """Draws a row of panels per measure: the vision tower on the left, the language model on the right.

    Args:
        summary: Table of `summary_table`.
        source: Model and data, for the footnote.
    """
    known = [measure for measure in BY_LAYER if summary[measure].notna().any()]
    with house_style():
        figure = Figure(figsize=(13.5, 1.3 + 2.45 * len(known)), layout="constrained")
        axes = figure.subplots(len(known), 2, squeeze=False, sharey="row", sharex="col")
        for line, measure in zip(axes, known, strict=True):
            for ax, names in zip(line, (TOWER, DECODER), strict=True):
                draw_layers(summary, measure, names, ax)
            line[0].set_ylabel(BY_LAYER[measure])
        axes[-1, 0].set_xlabel("layer of the vision tower")
        axes[-1, 1].set_xlabel("block of the language model")
        legend(figure, axes)
        figure.draw_without_rendering()  # labels need the final heights of the panels
        for measure, ax in zip(known, axes[:, 1], strict=True):
            _name_controls(summary, measure, ax)
        near = summary["spearman_response_n"].max() if "spearman_response" in known else 0
        text = (
            f"{source}; {_SIZE.format(n=summary['n'].max(), images=summary['images'].max())}, nearness to the response "
            f"on n = {near:,.0f} long answers; bands: 95 % intervals over images; broken lines: sums and means over "
            "their layers; dashed and dotted: controls."
        )
        caption(figure, "Measures by layer", text)
    return figure


def _name_controls(summary: pd.DataFrame, measure: str, ax: Axes) -> None:
    rows = _controls(summary, measure)
    right = ax.get_xlim()[1]
    found = zip(rows["signal"], rows[measure], strict=True)
    label_lines(ax, [Label(right, level, NAMES[name], COLOURS_OF[name]) for name, level in found], 10.5)


def _controls(summary: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Returns the rows of random patches and of the even grid, which has no row correlation."""
    names = [RANDOM] if measure == "row_correlation" else [RANDOM, "uniform"]
    return summary[summary["signal"].isin(names)].dropna(subset=measure)


def pairs_data(square: pd.DataFrame, most: int = 6) -> pd.DataFrame:
    """Returns at most `most` evenly spaced layers of each signal, with names as labels."""
    kept = _few(list(square.index), most)
    names = [" ".join(filter(None, one)) for one in kept]
    return pd.DataFrame(square.loc[kept, kept].to_numpy(), names, names)


def draw_pairs(square: pd.DataFrame, measure: str, ax: Axes) -> Axes:
    """Draws a heat map of `pairs_data`, with white lines between signals."""
    signed = measure in ("spearman", "kendall")
    scale: dict[str, Any] = (
        {"cmap": "vlag", "vmin": -1, "vmax": 1} if signed else {"cmap": "mako", "vmin": 0, "vmax": 1}
    )
    bar = {"shrink": 0.6, "pad": 0.02}
    sns.heatmap(square, ax=ax, square=True, cbar_kws=bar, xticklabels=True, yticklabels=True, **scale)
    names = [name.rstrip("0123456789- ") for name in square.index]
    edges = [i for i in range(1, len(names)) if names[i] != names[i - 1]]
    for draw in (ax.axhline, ax.axvline):
        for edge in edges:
            draw(edge, color="white", lw=2.2)
    ax.tick_params(labelsize=9.5, length=0)
    ax.set(xlabel="", ylabel="", title=_PAIRS[measure], anchor="N")  # leaves room for the names below
    return ax


def pairs_figure(squares: dict[str, pd.DataFrame], n: int, images: int, source: str) -> Figure:
    """Draws one panel per measure; `squares` has the square of `pair_matrix` by measure."""
    shown = {measure: pairs_data(square) for measure, square in squares.items()}
    side = 2.4 + 0.2 * max(map(len, shown.values()))
    with house_style():
        # the height of a square is the width that names and colour bar leave; a higher figure would stay empty
        figure = Figure(figsize=((side + 0.4) * len(shown), side + 0.35), layout="constrained")
        for ax, (measure, square) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
            draw_pairs(square, measure, ax)
        size = _SIZE.format(n=n, images=images)
        text = f"{source}; {size}; means over questions and heads; numbers are layers."
        caption(figure, "Similarity of signals", text)
        figure.draw_without_rendering()  # the first layout does not know the height of a square
    return figure


def draw_map(mean: MeanMap, ax: Axes) -> Axes:
    """Draws a mean map in multiples of an even share, on a logarithmic scale."""
    with np.errstate(divide="ignore"):
        times = np.log2(mean.values * mean.values.size)
    ax.imshow(times, **_DOUBLINGS)
    ax.set(xticks=[], yticks=[])
    ax.set_title(mean.layers, fontsize=10.5, loc="center", pad=3)
    return ax


def maps_figure(maps: Sequence[MeanMap], images: int, source: str, most: int = 7) -> Figure:
    """Draws a row of mean maps per signal, with at most `most` layers from left to right."""
    rows = [
        _few([one for one in maps if one.signal == signal], most)
        for signal in dict.fromkeys(one.signal for one in maps)
    ]
    width = max(map(len, rows))
    with house_style():
        figure = Figure(figsize=(2.6 + 1.25 * width, 1.3 + 1.45 * len(rows)), layout="constrained")
        grid = figure.subplots(len(rows), width, squeeze=False)
        for line, row in zip(grid, rows, strict=True):
            for ax, mean in zip(line, row, strict=False):
                draw_map(mean, ax)
            line[0].set_ylabel(
                NAMES[row[0].signal].replace(", ", ",\n").replace(" (", "\n("), rotation=0, ha="right", va="center"
            )
            for ax in line[len(row) :]:
                ax.remove()
        bar = figure.colorbar(
            ScalarMappable(**_DOUBLINGS), ax=figure.axes, shrink=0.5, pad=0.02, ticks=FixedLocator([-2, -1, 0, 1, 2])
        )
        bar.ax.set_yticklabels(["1/4", "1/2", "even", "2 x", "4 x"])
        size = _SIZE.format(n=maps[0].n, images=images)
        text = f"{source}; {size}; every map has sum 1 before the mean; numbers are layers."
        caption(figure, "Mean maps", text)
    return figure


def curves_data(table: pd.DataFrame, most: int = 4) -> pd.DataFrame:
    """Returns the rows of `curve_table` for sums, means, controls, and at most `most` layers of two signals."""
    keys = list(dict.fromkeys(zip(table["signal"], table["layers"], strict=True)))
    kept = _few([key for key in keys if key[0] in ("received", "prompt") or not key[1].isdigit()], most)
    chosen = [key in kept for key in zip(table["signal"], table["layers"], strict=True)]
    return table[chosen]


def draw_curves(rows: pd.DataFrame, loss: str, ax: Axes) -> Axes:
    """Draws one loss by the share of the patches, with bands and named lines."""
    labels, dashes = [], ("-", "--", "-.", ":")
    for signal, some in rows.groupby("signal", sort=False):
        for number, (layers, line) in enumerate(some.groupby("layers", sort=False)):
            line, colour = line.sort_values("share"), COLOURS_OF[str(signal)]
            ax.fill_between(line["share"], line[f"{loss}_low"], line[f"{loss}_high"], color=colour, alpha=0.1, lw=0)
            dash = dashes[number % len(dashes)]
            ax.plot(line["share"], line[loss], dash, color=colour, lw=1.8, marker=MARKERS[str(signal)], ms=5)
            name = NAMES[str(signal)] + (f", {layers}" if layers else "")
            labels.append(Label(line["share"].iloc[-1], line[loss].iloc[-1], name, colour))
    ax.set(xlabel=f"share of patches {'left' if loss.startswith('insertion') else 'removed'}")
    shares = sorted(rows["share"].unique())
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(shares))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0 if min(shares) >= 0.01 else 1, symbol=" %"))
    ax.grid(axis="y", linewidth=0.8)
    ax.set_axisbelow(True)
    label_lines(ax, labels, 10)
    return ax


def curves_figure(table: pd.DataFrame, source: str) -> Figure:
    """Draws the losses of the answer if only the top patches are left, and if they are removed.

    Args:
        table: Table of `curve_table`.
        source: Model and data, for the footnote.
    """
    rows = curves_data(table)
    with house_style():
        figure = Figure(figsize=(14.5, 6.6), layout="constrained")
        axes = figure.subplots(1, 2)
        for ax, title in zip(axes, ("top patches left: low is good", "top patches removed: high is good"), strict=True):
            ax.set(title=title, ylabel="log-probability lost (nats)", xlabel=" ")
        figure.draw_without_rendering()  # labels need the final heights of the panels
        for ax, loss in zip(axes, ("insertion_loss", "deletion_loss"), strict=True):
            draw_curves(rows, loss, ax)
        size = _SIZE.format(n=rows["n"].max(), images=rows["images"].max())
        text = f"{source}; {size}; bands: 95 % intervals over images."
        caption(figure, "Loss of the answer's log-probability", text)
    return figure


def _few(keys: list, most: int) -> list:
    """Returns at most `most` evenly spaced keys (signal, layers, ...) of each signal, with the first and last."""
    kept = []
    for signal in dict.fromkeys(key[0] for key in keys):
        some = [key for key in keys if key[0] == signal]
        indices = np.linspace(0, len(some) - 1, min(most, len(some))).round().astype(int)
        kept += [some[index] for index in indices]
    return kept


def legend(figure: Figure, axes: np.ndarray) -> None:
    """Draws one legend with the signals of all panels."""
    shown = legend_of(axes.flat)
    first = {name: shown[name] for name in NAMES.values() if name in shown}
    figure.legend(first.values(), first.keys(), frameon=False, fontsize=10.5, loc="outside right center")
