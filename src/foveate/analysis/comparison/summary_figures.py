"""Figure of a summary: mean ranks and shares retained of every method, one row of panels per budget."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from foveate.analysis.comparison.data import ROLES
from foveate.analysis.comparison.figures import ROLE_COLOURS
from foveate.analysis.drawing import FAINT, INK, caption, house_style, label_rows, legend_above


class Panel(NamedTuple):
    """One budget; `rows` are those of `summary_table`, best first."""

    budget: str
    rows: pd.DataFrame


def summary_data(table: pd.DataFrame) -> list[Panel]:
    """Returns a panel per budget.

    Args:
        table: Rows of one model in `summary_table`.
    """
    return [Panel(str(budget), rows) for budget, rows in table.groupby("budget", sort=False)]


def draw_ranks(data: Panel, ax: Axes) -> Axes:
    """Draws the mean rank of every method with its interval; the best is at the top."""
    _dots(data.rows, ("mean_rank", "rank_low", "rank_high"), ax)
    ax.tick_params(labelbottom=True)
    ax.set_title(f"Equivalent tokens: {data.budget}")
    ax.set_xlabel("mean rank over the tasks (1 is best)")
    return ax


def draw_retained(data: Panel, ax: Axes) -> Axes:
    """Draws the mean share retained of every method with its interval, and as a ring that of its worst task."""
    ax.axvline(1, color=INK, ls="--", lw=1.2, zorder=1)
    _dots(data.rows, ("retained", "retained_low", "retained_high"), ax)
    ax.plot(data.rows["worst_retained"], _heights(data.rows), "o", mfc="none", mec=FAINT, ms=7, zorder=2)
    ax.tick_params(labelbottom=True)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    ax.set_xlabel("accuracy retained, mean over the tasks")
    return ax


def summary_figure(panels: Sequence[Panel]) -> Figure:
    """Draws a row of two panels per budget.

    Args:
        panels: Panels of `summary_data`.
    """
    size = panels[0].rows.iloc[0]
    with house_style():
        rows = [len(panel.rows) for panel in panels]
        figure = Figure(figsize=(13, 0.27 * sum(rows) + 1.3 * len(rows) + 1.6), layout="constrained")
        axes = figure.subplots(len(panels), 2, squeeze=False, sharex="col", height_ratios=rows)
        for (left, right), panel in zip(axes, panels, strict=True):
            draw_ranks(panel, left)
            draw_retained(panel, right)
            right.set_yticklabels([])
        used = [role for role in ROLES if any(role in set(panel.rows["role"]) for panel in panels)]
        marks = {ROLES[role]: Line2D([], [], marker="o", color=ROLE_COLOURS[role]) for role in used}
        ring = Line2D([], [], marker="o", mfc="none", mec=FAINT, ms=7, ls="none")
        legend_above(figure, {**marks, "worst task": ring})
        note = (
            f"{size['tasks']} tasks, n = {size['n']:,} questions about {size['images']:,} images. Bars: 95 % intervals "
            "of a bootstrap over data sets and images; dashed: no compression. The worst task is chosen on one half "
            "of the images and drawn on the other."
        )
        caption(figure, "Methods over all tasks", note)
    return figure


def _dots(rows: pd.DataFrame, names: tuple[str, str, str], ax: Axes) -> None:
    heights = _heights(rows)
    for height, (_, row) in zip(heights, rows.iterrows(), strict=True):
        colour = ROLE_COLOURS[row["role"]]
        value, low, high = (row[name] for name in names)
        ax.plot([low, high], [height, height], color=colour, lw=2, zorder=3)
        ax.plot(value, height, "o", color=colour, ms=6, mec="white", zorder=4)
    label_rows(ax, [str(name) for name in rows["method"]])
    for tick, role in zip(ax.get_yticklabels(), rows["role"], strict=True):
        tick.set_color(ROLE_COLOURS[role])


def _heights(rows: pd.DataFrame) -> np.ndarray:
    return np.arange(len(rows))[::-1]
