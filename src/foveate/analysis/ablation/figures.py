"""Figures of an ablation: accuracy by layer, accuracy by budget, and answers that a sum of layers repairs."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from foveate.analysis.ablation.data import Repairs
from foveate.analysis.cells import BUDGETLESS, PIXEL_FILTERS, best_scorer
from foveate.analysis.drawing import (
    COLOURS,
    FAINT,
    RIGHT,
    WRONG,
    Label,
    caption,
    house_style,
    label_lines,
    legend_above,
    legend_of,
    percent_axis,
    readable,
)

_CAPTION = "n = {n:,} questions about {images:,} images; {what} 95 % intervals over images."
_LINES = {"full": "--", "evidence": "-.", "uniform": ":", "random": "-"}
_LINES |= dict(zip(PIXEL_FILTERS, ("-", "--", ":"), strict=True))
_CURVES = ["accuracy", "ci_low", "ci_high"]
_FILTERS_NOTE = f" {', '.join(PIXEL_FILTERS).capitalize()}: pixel filters, without a network."
_OUTCOMES = {  # column of `Repairs.table` and colour
    "right with both": ("kept", "#d9d9d9"),
    "right only with the sum": ("repaired", RIGHT),
    "wrong with both": ("lost", FAINT),
    "right only with the layer": ("broken", WRONG),
}


class LayerPanel(NamedTuple):
    """Accuracy by layer at one budget.

    Attributes:
        single: Accuracy, ci_low and ci_high of single layers, by layer.
        suffix: The same columns for the sums from a layer to the feature layer.
        references: The same columns for the measured controls, by family.
        keep: Patches kept.
        patches: Patches of an image, or None without `full`.
        feature_layer: Layer that writes the features.
        n: Number of questions.
        images: Number of images.
    """

    single: pd.DataFrame
    suffix: pd.DataFrame
    references: pd.DataFrame
    keep: int
    patches: int | None
    feature_layer: int
    n: int
    images: int


class Series(NamedTuple):
    """One line of the frontier; `points` has accuracy, ci_low and ci_high by budget."""

    label: str
    family: str
    line: str
    points: pd.DataFrame


class Frontier(NamedTuple):
    """Accuracy by budget; `full` is the accuracy with all `patches`, both None without that row."""

    series: tuple[Series, ...]
    full: float | None
    patches: int | None
    n: int
    images: int


def accuracy_by_layer_data(table: pd.DataFrame, keep: int, feature_layer: int) -> LayerPanel:
    """Returns the rows of one budget and of `full`."""
    rows = table[(table["keep"] == keep) | (table["family"] == "full")]
    single, suffix = (_by_first_layer(rows[rows["family"] == family]) for family in ("single", "suffix"))
    references = rows[rows["family"].isin(list(_LINES))].drop_duplicates("family").set_index("family")[_CURVES]
    return LayerPanel(single, suffix, references, keep, _patches(table), feature_layer, *_size(rows))


def draw_accuracy_by_layer(data: LayerPanel, ax: Axes) -> Axes:
    """Draws points with intervals for layers and sums, and lines for the references."""
    ax.axvspan(data.feature_layer - 0.38, data.feature_layer + 0.38, color="#f1f1f1", lw=0, zorder=0)
    layers = data.single.index.union(data.suffix.index)
    for rows, family, label, marker, shift in (
        (data.single, "single", "single layer", "o", -0.09),
        (data.suffix, "suffix", f"sum up to layer {data.feature_layer}", "s", 0.09),
    ):
        if rows.empty:
            continue
        errors = [rows["accuracy"] - rows["ci_low"], rows["ci_high"] - rows["accuracy"]]
        ax.errorbar(
            rows.index + shift,
            rows["accuracy"],
            np.clip(errors, 0, None),  # rounding may make an error at 0 or 1 negative
            fmt=f"{marker}-",
            color=COLOURS[family],
            label=label,
            lw=1.2,
            elinewidth=2,
            ms=6 if len(layers) <= 12 else 4.5,
        )
    left, right = min(layers, default=0) - 0.5, max(layers, default=0) + 0.5
    labels = []
    for family, row in data.references.iterrows():
        colour = COLOURS[str(family)]
        ax.axhline(row["accuracy"], color=colour, ls=_LINES[str(family)], lw=1.4, zorder=1)
        if family == "random":
            ax.axhspan(row["ci_low"], row["ci_high"], color=colour, alpha=0.18, lw=0, zorder=0)
        labels.append(Label(right, row["accuracy"], str(family), colour))
    ax.set_xlim(left, right)
    ax.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
    ax.set_title(f"{data.keep} patches" if data.patches is None else _share(data.keep, data.patches))
    percent_axis(ax)
    label_lines(ax, labels)
    return ax


def accuracy_by_layer_figure(panels: Sequence[LayerPanel], source: str = "") -> Figure:
    """Draws one panel per budget with a common scale.

    Args:
        panels: Panels by falling budget.
        source: Model, data and split, for the footnote.
    """
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    limits = _limits([frame for panel in panels for frame in (panel.single, panel.suffix, panel.references)])
    with house_style():
        figure = Figure(figsize=(10.8, 3.2 * rows + 1.2), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for ax in grid.flat[len(panels) :]:
            ax.remove()
        for ax, panel in zip(grid.flat, panels, strict=False):
            ax.set_ylim(limits)
            draw_accuracy_by_layer(panel, ax)
            ax.set_ylabel("accuracy" if ax in grid[:, 0] else "")
            ax.set_xlabel("layer of the vision tower" if ax in grid[-1] else "")
        legend_above(figure, legend_of(grid[0, :1]))
        what = f"shaded: layer {panels[0].feature_layer}, which writes the features; bars and grey band:"
        note = _CAPTION.format(n=panels[0].n, images=panels[0].images, what=what)
        note += _FILTERS_NOTE if panels[0].references.index.isin(PIXEL_FILTERS).any() else ""
        caption(figure, "Accuracy by layer of [CLS] attention", f"{note} {source}".strip())
    return figure


def frontier_data(table: pd.DataFrame, feature_layer: int, depth: int) -> Frontier:
    """Returns lines of the best scorers by mean over budgets, the feature layer, the last layer and controls."""
    measured = table[~table["family"].isin(BUDGETLESS)]
    roles: dict[str, list[str]] = {}
    for family, role in (("single", "best single"), ("suffix", "best sum")):
        if best := best_scorer(measured, family):
            roles.setdefault(best, []).append(role)
    singles = measured[measured["family"] == "single"].drop_duplicates("layers").set_index("layers")["scorer"]
    for layer, role in ((feature_layer, "writes features"), (depth - 1, "last")):
        if str(layer) in singles:
            roles.setdefault(singles[str(layer)], []).append(role)
    others = measured[measured["family"].isin(["all", "uniform", "random", "evidence", *PIXEL_FILTERS])]
    roles |= {scorer: [] for scorer in others["scorer"].unique()}
    series = tuple(_series(measured[measured["scorer"] == scorer], role) for scorer, role in roles.items())
    full = table.loc[table["family"] == "full", "accuracy"]
    return Frontier(series, None if full.empty else float(full.iloc[0]), _patches(table), *_size(table))


def draw_frontier(data: Frontier, ax: Axes) -> Axes:
    """Draws lines with bands over a logarithmic budget that falls to the right."""
    keeps = sorted({keep for series in data.series for keep in series.points.index}, reverse=True)
    if data.full is not None:
        ax.axhline(data.full, color=COLOURS["full"], ls="--", lw=1.4)
        ax.annotate(
            f"full: all {data.patches} patches",
            (0.01, data.full),
            (0, 4),
            ("axes fraction", "data"),
            "offset points",
            color=COLOURS["full"],
            fontsize=11,
        )
    labels = []
    for series in data.series:
        rows, colour = series.points, COLOURS[series.family]
        ax.fill_between(rows.index, rows["ci_low"], rows["ci_high"], color=colour, alpha=0.13, lw=0)
        ax.plot(rows.index, rows["accuracy"], series.line, color=colour, lw=2, marker="o", ms=5.5, mec="white")
        labels.append(Label(rows.index.min(), rows["accuracy"].loc[rows.index.min()], series.label, colour))
    ax.set_xscale("log", base=2)
    ticks = _spaced(keeps)
    ax.set_xticks(ticks, [_tick(keep, data.patches) for keep in ticks], minor=False)
    ax.set_xticks([], minor=True)
    ax.set_xlim(max(keeps) * 1.08, min(keeps) / 1.04)
    ax.set_xlabel("patches kept")
    ax.set_ylabel("accuracy")
    percent_axis(ax)
    label_lines(ax, labels)
    return ax


def frontier_figure(data: Frontier, source: str = "") -> Figure:
    """Draws the frontier.

    Args:
        data: Data of `frontier_data`.
        source: Model, data and split, for the footnote.
    """
    with house_style():
        figure = Figure(figsize=(10.8, 6.2), layout="constrained")
        draw_frontier(data, figure.subplots())
        what = "best: highest mean over these budgets; bands:"
        note = _CAPTION.format(n=data.n, images=data.images, what=what)
        note += _FILTERS_NOTE if any(series.family in PIXEL_FILTERS for series in data.series) else ""
        caption(figure, "Accuracy by number of kept patches", f"{note} {source}".strip())
    return figure


def draw_repairs(data: Repairs, ax: Axes) -> Axes:
    """Draws a stacked bar per layer with the outcomes of its answers and those of the sum."""
    names = {column: name for name, (column, _) in _OUTCOMES.items()}
    long = data.table.rename(columns=names).melt("layer", list(_OUTCOMES), "outcome", "share")
    order = list(_OUTCOMES)[::-1]  # seaborn stacks the first on top
    sns.histplot(
        long,
        x="layer",
        weights="share",
        hue="outcome",
        hue_order=order,
        palette={name: colour for name, (_, colour) in _OUTCOMES.items()},
        multiple="stack",
        discrete=True,
        shrink=0.75,
        alpha=1,
        linewidth=0,
        ax=ax,
    )
    sns.move_legend(ax, "upper left", bbox_to_anchor=(1.01, 1), frameon=False, title=None, fontsize=11)
    ax.set_xticks(data.table["layer"])
    ax.set(xlabel="layer of the vision tower", ylabel="questions", ylim=(0, 1))
    percent_axis(ax)
    return ax


def repairs_figure(data: Repairs) -> Figure:
    """Draws the bars with title and footnote."""
    with house_style():
        figure = Figure(figsize=(10.8, 4.4), layout="constrained")
        draw_repairs(data, figure.subplots())
        note = (
            f"{data.keep} patches kept; n = {data.n:,} questions about {data.images:,} images. Each bar compares the "
            f"patches of one layer with those of the sum of layers {data.layers}."
        )
        caption(figure, "Answers with a single layer and with the sum", note)
    return figure


def _by_first_layer(rows: pd.DataFrame) -> pd.DataFrame:
    layers = rows["layers"].str.split("-").str[0].astype(int)
    return rows.set_index(layers.rename("layer"))[_CURVES].sort_index()


def _series(rows: pd.DataFrame, roles: list[str]) -> Series:
    row = rows.iloc[0]
    details = roles if row["family"] != "random" else [f"{row['seeds']} seeds"]
    name = readable(row["scorer"], row["family"], row["layers"])
    label = f"{name} ({', '.join(details)})" if details else name
    line = {"writes features": "--", "last": ":"}.get((roles or [""])[0], "-")
    line = _LINES[row["family"]] if row["family"] in PIXEL_FILTERS else line
    return Series(label, row["family"], line, rows.set_index("keep")[_CURVES].sort_index())


def _patches(table: pd.DataFrame) -> int | None:
    full = table.loc[table["family"] == "full", "keep"]
    return None if full.empty else int(full.iloc[0])


def _size(rows: pd.DataFrame) -> tuple[int, int]:
    return int(rows["n"].iloc[0]), int(rows["images"].iloc[0])


def _share(keep: int, patches: int) -> str:
    return f"{keep} of {patches} patches ({100 * keep / patches:.0f} %)"


def _spaced(keeps: Sequence[int], gap: float = 0.08) -> list[int]:
    """Returns falling budgets at least `gap` of the logarithmic range apart, so that labels do not touch."""
    ticks = list(keeps[:1])
    for keep in keeps[1:]:
        if math.log(ticks[-1] / keep) >= gap * math.log(keeps[0] / keeps[-1]):
            ticks.append(keep)
    return ticks


def _tick(keep: int, patches: int | None) -> str:
    return str(keep) if patches is None else f"{keep}\n{100 * keep / patches:.0f} %"


def _limits(frames: Sequence[pd.DataFrame], margin: float = 0.04) -> tuple[float, float]:
    values = np.concatenate([frame[_CURVES].to_numpy().ravel() for frame in frames])
    room = margin * max(np.ptp(values), 0.01)
    return values.min() - room, values.max() + room
