"""Figures of a comparison: accuracy by equivalent tokens, and a ranking of the methods per budget."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from foveate.analysis.cells import BUDGETLESS, PIXEL_FILTERS
from foveate.analysis.comparison.data import ROLES, budgets_of, methods_at, shared_budget
from foveate.analysis.drawing import (
    COLOURS,
    FAINT,
    INK,
    Label,
    caption,
    house_style,
    label_lines,
    label_rows,
    legend_above,
    percent_axis,
)

_SIZE = "n = {n:,} questions about {images:,} images. "
_CONTROL_COLOURS = {
    "random": COLOURS["random"],
    "uniform": COLOURS["uniform"],
    "pool": "#6b4fa0",
    "downsample": "#3f7f7f",
    **{name: COLOURS[name] for name in PIXEL_FILTERS},
}
_CONTROL_LINES = {"random": "-", "uniform": ":", "pool": "-.", "downsample": "--"}
_CONTROL_LINES |= dict(zip(PIXEL_FILTERS, ("-", "--", ":"), strict=True))
_ORACLE = COLOURS["evidence"]
ROLE_COLOURS = {
    "control": FAINT,
    "oracle": _ORACLE,
    "vision": COLOURS["single"],
    "decoder": COLOURS["suffix"],
    "both": COLOURS["all"],
    "shared": "#8c564b",
}
_ORDER = ("vision", "decoder", "both", "shared", "oracle", "control")
_MARKERS = "osD^vP"
_POINTS = ["equivalent_tokens", "accuracy", "ci_low", "ci_high"]


class Curve(NamedTuple):
    """One method; `points` has equivalent_tokens, accuracy, ci_low and ci_high, by rising tokens."""

    method: str
    role: str
    points: pd.DataFrame


class Frontier(NamedTuple):
    """One panel with methods of some roles, controls and oracles; `full` is None without that row.

    `colours` has every method of the table, so that a method has one colour in all panels.
    """

    title: str
    budgets: tuple[int, ...]
    methods: tuple[Curve, ...]
    references: tuple[Curve, ...]
    full: float | None
    n: int
    images: int
    colours: Mapping[str, Any]


class Ranking(NamedTuple):
    """One panel with the accuracy of every method at one budget.

    Attributes:
        budget: Budget in equivalent tokens.
        rows: Columns role, accuracy, ci_low and ci_high by method; NaN where a method cannot have the budget.
        random: Accuracy of random patches and the ends of its interval, or None.
        full: Accuracy of the uncompressed model, or None.
        n: Number of questions.
        images: Number of images.
    """

    budget: int
    rows: pd.DataFrame
    random: np.ndarray | None
    full: float | None
    n: int
    images: int


def method_colours(table: pd.DataFrame) -> dict[str, Any]:
    """Returns a colour for every method of a table; adjacent methods have different hues."""
    roles = table[~table["method"].isin(BUDGETLESS)].drop_duplicates("method").set_index("method")["role"]
    methods = [str(name) for name, role in roles.items() if role in ("vision", "decoder", "both")]
    hues = sns.husl_palette(max(len(methods), 1), l=0.5, s=0.95)
    step = 7 if len(hues) % 7 else 1  # adjacent methods differ
    colours: dict[str, Any] = {name: hues[(number * step) % len(hues)] for number, name in enumerate(methods)}
    others = {str(name): role for name, role in roles.items() if name not in colours}
    return colours | {name: _CONTROL_COLOURS.get(name, ROLE_COLOURS[role]) for name, role in others.items()}


def frontiers_data(table: pd.DataFrame) -> list[Frontier]:
    """Returns a panel of the methods that drop tokens before the language model, and one of those that do so inside it.

    A control that drops tokens inside the language model is in the second panel only.
    """
    rows = table[~table["method"].isin(BUDGETLESS)]
    budgets, size = tuple(budgets_of(table)), (int(rows["n"].max()), int(rows["images"].max()))
    curves = [
        Curve(str(name), some["role"].iloc[0], some[[*_POINTS, "budget"]].sort_values("equivalent_tokens"))
        for name, some in rows.groupby("method", sort=False)
    ]
    colours = method_colours(table)
    inside = set(rows.loc[rows["tokens_given"] > rows["tokens_left"], "method"])
    panels = []
    for title, roles in (
        ("before the language model", ("vision",)),
        ("inside the language model", ("decoder", "both")),
    ):
        methods = tuple(curve for curve in curves if curve.role in roles)
        hidden = inside if roles == ("vision",) else ()
        references = tuple(c for c in curves if c.role in ("control", "oracle") and c.method not in hidden)
        if methods:
            panels.append(Frontier(title, budgets, methods, references, _full(table), *size, colours))
    return panels


def draw_frontier(data: Frontier, ax: Axes) -> Axes:
    """Draws methods as points joined by lines, controls and oracles as thick lines, and random patches with a band.

    With one budget, controls and oracles are squares, and the interval of random patches is a bar.
    """
    labels = []
    if data.full is not None:
        ax.axhline(data.full, color=INK, ls="--", lw=1.2, zorder=1)
    for curve in data.references:
        colour = data.colours[curve.method]
        x, rows = curve.points["equivalent_tokens"], curve.points
        if curve.method == "random" and len(x) > 1:
            ax.fill_between(x, rows["ci_low"], rows["ci_high"], color=colour, alpha=0.25, lw=0, zorder=1)
        elif curve.method == "random":
            ax.vlines(x, rows["ci_low"], rows["ci_high"], color=colour, alpha=0.5, lw=4, zorder=1)
        line, marker = _CONTROL_LINES.get(curve.method, "-."), None if len(x) > 1 else "s"
        ax.plot(x, rows["accuracy"], line, color=colour, lw=2.2, marker=marker, ms=7, alpha=0.8, zorder=2)
        labels.append(Label(x.iloc[0], rows["accuracy"].iloc[0], curve.method, colour))
    for number, curve in enumerate(data.methods):
        colour = data.colours[curve.method]
        x, rows = curve.points["equivalent_tokens"], curve.points
        ax.plot(x, rows["accuracy"], color=colour, lw=1, marker=_MARKERS[number % 6], ms=6, mec="white", zorder=3)
        name = curve.method if curve.role != "both" else f"{curve.method} (before and inside)"
        labels.append(Label(x.iloc[0], rows["accuracy"].iloc[0], name, colour))
    tokens = pd.concat([curve.points["equivalent_tokens"] for curve in (*data.methods, *data.references)])
    ax.set_xscale("log", base=2)
    ax.set_xticks(data.budgets, [str(budget) for budget in data.budgets])
    ax.set_xticks([], minor=True)
    ax.set_xlim(tokens.max() * 1.12, tokens.min() / (1.06 if len(data.budgets) > 1 else 1.12))
    ax.set_xlabel("equivalent tokens, measured")
    ax.set_title(data.title)
    percent_axis(ax)
    label_lines(ax, labels, size=10)
    return ax


def frontier_figure(panels: Sequence[Frontier], source: str = "") -> Figure:
    """Draws the panels side by side with a common scale.

    Args:
        panels: Panels of `frontiers_data`.
        source: Model, data and split, for the footnote.
    """
    values = pd.concat([curve.points["accuracy"] for panel in panels for curve in (*panel.methods, *panel.references)])
    room = 0.03 * max(np.ptp(values), 0.05)
    with house_style():
        figure = Figure(figsize=(7 * len(panels) + 0.5, 8), layout="constrained")
        for ax, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            ax.set_ylim(values.min() - room, max(values.max(), panel.full or 0) + room)
            draw_frontier(panel, ax)
        figure.axes[0].set_ylabel("accuracy")
        several = any(len(panel.budgets) > 1 for panel in panels)
        note = (
            _SIZE.format(n=panels[0].n, images=panels[0].images)
            + "Equivalent tokens: visual tokens averaged over the language model's blocks. Dashed: no compression; "
            f"{'thick lines' if several else 'squares'}: controls and oracles; {'band' if several else 'bar'}: 95 % "
            "interval of random patches."
        )
        caption(figure, "Accuracy by equivalent tokens", f"{note} {source}".strip())
    return figure


def rankings_data(table: pd.DataFrame) -> list[Ranking]:
    """Returns one panel per budget; methods are sorted by role, then by accuracy at the budget that most can have."""
    measured = table[~table["method"].isin(BUDGETLESS)]
    best_first = [*methods_at(table, shared_budget(table), ROLES)["method"], *measured["method"]]
    role = measured.drop_duplicates("method").set_index("method")["role"]
    order = sorted(dict.fromkeys(best_first), key=lambda method: _ORDER.index(role[method]))
    panels = []
    for budget in budgets_of(table):
        rows = measured[measured["budget"] == budget].set_index("method").reindex(order)[_POINTS[1:]]
        random = rows.loc["random", _POINTS[1:]].to_numpy(float) if "random" in rows.index else None
        size = int(measured["n"].max()), int(measured["images"].max())
        panels.append(Ranking(budget, rows.assign(role=role), random, _full(table), *size))
    return panels


def draw_ranking(data: Ranking, ax: Axes) -> Axes:
    """Draws accuracies with intervals, one line per method, over the band of random patches."""
    heights = np.arange(len(data.rows))[::-1]
    if data.random is not None:
        mean, low, high = data.random
        ax.axvspan(low, high, color=COLOURS["random"], alpha=0.2, lw=0)
        ax.axvline(mean, color=COLOURS["random"], lw=1.2)
    if data.full is not None:
        ax.axvline(data.full, color=INK, ls="--", lw=1.2)
    for height, (_, row) in zip(heights, data.rows.iterrows(), strict=True):
        colour = ROLE_COLOURS[row["role"]]
        if pd.isna(row["accuracy"]):
            ax.annotate(
                "not possible", (0.02, height), xycoords=("axes fraction", "data"), va="center", color=FAINT, fontsize=9
            )
            continue
        ax.plot([row["ci_low"], row["ci_high"]], [height, height], color=colour, lw=2)
        ax.plot(row["accuracy"], height, "o", color=colour, ms=6, mec="white")
    label_rows(ax, [str(name) for name in data.rows.index])
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    ax.set_title(f"{data.budget} equivalent tokens")
    return ax


def ranking_figure(panels: Sequence[Ranking], source: str = "") -> Figure:
    """Draws the panels side by side with common rows.

    Args:
        panels: Panels of `rankings_data`.
        source: Model, data and split, for the footnote.
    """
    with house_style():
        height = 0.27 * len(panels[0].rows) + 1.9
        width = max(3.6 * len(panels) + 2.2, 14)  # the title and the legend are in one row
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        for ax, panel in zip(axes, panels, strict=True):
            draw_ranking(panel, ax)
        for tick, role in zip(axes[0].get_yticklabels(), panels[0].rows["role"], strict=True):
            tick.set_color(ROLE_COLOURS[role])
        used = panels[0].rows["role"].drop_duplicates()
        legend_above(figure, {ROLES[role]: Line2D([], [], marker="o", color=ROLE_COLOURS[role]) for role in used})
        note = (
            _SIZE.format(n=panels[0].n, images=panels[0].images)
            + "Bars: 95 % intervals over images; band: random patches; dashed: no compression. Methods of one colour "
            f"are sorted by accuracy at {_reference(panels)} equivalent tokens."
        )
        caption(figure, "Accuracy of every method", f"{note} {source}".strip())
    return figure


def _reference(panels: Sequence[Ranking]) -> int:
    counts = {panel.budget: int(panel.rows["accuracy"].notna().sum()) for panel in panels}
    return min(budget for budget, count in counts.items() if count == max(counts.values()))


def _full(table: pd.DataFrame) -> float | None:
    full = table.loc[table["method"] == "full", "accuracy"]
    return None if full.empty else float(full.iloc[0])
