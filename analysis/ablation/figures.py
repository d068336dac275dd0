"""Figures of a layer ablation: accuracy by layer, and accuracy against the budget."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.ablation.data import BUDGETLESS, PIXEL_FILTERS, best_scorer
from analysis.drawing import COLOURS, Label, caption, house_style, label_lines, percent_axis, readable

_CAPTION = "n = {n:,} questions about {images:,} images; {what} 95 % intervals over images."
_LINES = {"full": "--", "evidence": "-.", "uniform": ":", "random": "-"}
_LINES |= dict(zip(PIXEL_FILTERS, ("-", "--", ":"), strict=True))
_CURVES = ["accuracy", "ci_low", "ci_high"]
_FILTERED = f" {', '.join(PIXEL_FILTERS).capitalize()}: of a patch's pixels, without a network."


class LayerPanel(NamedTuple):
    """Accuracy by layer at one budget.

    Attributes:
        single: Index layer; columns accuracy, ci_low, ci_high: attention of that layer alone.
        suffix: The same for the sum from that layer to the feature layer.
        references: Index family, the same columns: full, evidence, uniform, random, filters of pixels, as far as
            measured.
        keep: Patches kept.
        patches: Patches of an image, or None without `full`.
        feature_layer: The layer that writes the features.
        n: Questions.
        images: Images.
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
    """One line of the frontier: `points` has index keep and columns accuracy, ci_low, ci_high."""

    label: str
    family: str
    line: str
    points: pd.DataFrame


class Frontier(NamedTuple):
    """Accuracy against budget; `full` is the accuracy with all `patches`, both None without that row."""

    series: tuple[Series, ...]
    full: float | None
    patches: int | None
    n: int
    images: int


def accuracy_by_layer_data(table: pd.DataFrame, keep: int, feature_layer: int) -> LayerPanel:
    """The rows of one budget; `full` stands in every budget."""
    rows = table[(table["keep"] == keep) | (table["family"] == "full")]
    single, suffix = (_by_first_layer(rows[rows["family"] == family]) for family in ("single", "suffix"))
    references = rows[rows["family"].isin(list(_LINES))].drop_duplicates("family").set_index("family")[_CURVES]
    return LayerPanel(single, suffix, references, keep, _patches(table), feature_layer, *_size(rows))


def draw_accuracy_by_layer(data: LayerPanel, ax: Axes) -> Axes:
    """Points with intervals for layers and sums, lines for full, evidence, uniform, random and filters of pixels."""
    ax.axvspan(data.feature_layer - 0.38, data.feature_layer + 0.38, color="#f1f1f1", lw=0, zorder=0)
    layers = data.single.index.union(data.suffix.index)
    for rows, family, name, marker, shift in (
        (data.single, "single", "one layer", "o", -0.09),
        (data.suffix, "suffix", f"sum from this layer to layer {data.feature_layer}", "s", 0.09),
    ):
        if rows.empty:
            continue
        errors = [rows["accuracy"] - rows["ci_low"], rows["ci_high"] - rows["accuracy"]]
        ax.errorbar(
            rows.index + shift,
            rows["accuracy"],
            np.clip(errors, 0, None),  # rounding may make an end at 0 or 1 negative
            fmt=f"{marker}-",
            color=COLOURS[family],
            label=name,
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
    """Draws one panel per budget, with the same accuracies at the same height; the title is what the second last shows.

    Args:
        panels: By falling budget.
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
        grid[0, 0].legend(loc="best", frameon=False, fontsize=11)
        what = f"shaded: layer {panels[0].feature_layer}, which writes the features. Bars and grey band:"
        note = _CAPTION.format(n=panels[0].n, images=panels[0].images, what=what)
        note += _FILTERED if panels[0].references.index.isin(PIXEL_FILTERS).any() else ""
        caption(figure, _layers_title(panels[max(len(panels) - 2, 0)]), f"{note} {source}".strip())
    return figure


def frontier_data(table: pd.DataFrame, feature_layer: int, depth: int) -> Frontier:
    """The scorers that a reader asks for; the best ones are best on average over the budgets of this table."""
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
    """Lines with bands over a logarithmic budget that shrinks to the right, where the lines part and are named."""
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
    """Draws the frontier; the title is what its smallest budget shows.

    Args:
        data: As `frontier_data` gives it.
        source: Model, data and split, for the footnote.
    """
    with house_style():
        figure = Figure(figsize=(10.8, 6.2), layout="constrained")
        draw_frontier(data, figure.subplots())
        what = "best: by mean over these budgets and questions. Bands:"
        note = _CAPTION.format(n=data.n, images=data.images, what=what)
        note += _FILTERED if any(series.family in PIXEL_FILTERS for series in data.series) else ""
        caption(figure, _frontier_title(data), f"{note} {source}".strip())
    return figure


def _layers_title(panel: LayerPanel) -> str:
    rows = panel.single if len(panel.single) else panel.suffix
    ends = f"{100 * rows['accuracy'].min():.1f} to {100 * rows['accuracy'].max():.1f} %"
    text = f"With {panel.keep} patches by one layer's [CLS]: {ends}"
    if "random" in panel.references.index:
        text += f"; random {100 * panel.references['accuracy'].to_dict()['random']:.1f} %"
    return text


def _frontier_title(data: Frontier) -> str:
    least = min(int(keep) for series in data.series for keep in series.points.index)
    here = {s.label: s.points["accuracy"].get(least) for s in data.series if s.family not in ("evidence", "random")}
    here = {label: value for label, value in here.items() if value is not None}
    random = next((s.points["accuracy"].get(least) for s in data.series if s.family == "random"), None)
    told = [f"{max(here, key=here.__getitem__)} {100 * max(here.values()):.1f} %"] if here else []
    told += [] if random is None else [f"random {100 * random:.1f} %"]
    told += [] if data.full is None else [f"all patches {100 * data.full:.1f} %"]
    return f"With {least} patches: {', '.join(told)}"


def _by_first_layer(rows: pd.DataFrame) -> pd.DataFrame:
    layers = rows["layers"].str.split("-").str[0].astype(int)
    return rows.set_index(layers.rename("layer"))[_CURVES].sort_index()


def _series(rows: pd.DataFrame, roles: list[str]) -> Series:
    row = rows.iloc[0]
    notes = roles if row["family"] != "random" else [f"{row['seeds']} seeds"]
    name = readable(row["scorer"], row["family"], row["layers"])
    label = f"{name} ({', '.join(notes)})" if notes else name
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
    """Of falling budgets those whose labels do not touch: at least `gap` of the logarithmic range apart."""
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
