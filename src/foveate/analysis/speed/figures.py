"""Figures of speed: time by part with speedups, and the load of long runs."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foveate.analysis.drawing import COLOURS, FAINT, INK, RIGHT, WRONG, caption, house_style, legend_above, legend_of
from foveate.analysis.speed.data import FASTER, FULL, ONE_BY_ONE, SLOWER, Conditions, groups_of
from foveate.profiling.speed import PARTS

_COLOURS = dict(zip(PARTS, sns.color_palette("colorblind", len(PARTS)), strict=True))
_VERDICTS = {FASTER: RIGHT, SLOWER: WRONG}


def parts_data(rows: pd.DataFrame, new_tokens: int) -> pd.DataFrame:
    """Returns the milliseconds per question of every part, with decoding in full, by setting."""
    shown = rows[rows["method"] != ONE_BY_ONE]
    parts = shown[[f"{part}_ms" for part in PARTS]].set_axis(list(PARTS), axis=1)
    return parts.assign(decode=parts["decode"] * (new_tokens - 1)).set_axis(
        [_named(row) for _, row in shown.iterrows()]
    )


def draw_parts(data: pd.DataFrame, ax: Axes) -> Axes:
    """Draws a stacked bar per setting."""
    heights = np.arange(len(data))[::-1]
    left = np.zeros(len(data))
    for part in PARTS:
        ax.barh(heights, data[part], left=left, color=_COLOURS[part], height=0.72, label=part)
        left += data[part].to_numpy()
    ax.set_yticks(heights, [str(name) for name in data.index])
    ax.set(xlabel="ms per question, medians over rounds", ylim=(-0.6, len(data) - 0.4))
    ax.tick_params(labelsize=10.5, color=FAINT, labelcolor=INK)
    return ax


def draw_speedups(rows: pd.DataFrame, ax: Axes) -> Axes:
    """Draws speedups with intervals; left of the line compression is slower."""
    shown = rows[rows["method"] != ONE_BY_ONE]
    for height, (_, row) in zip(range(len(shown) - 1, -1, -1), shown.iterrows(), strict=True):
        if row["method"] == FULL:
            continue
        colour = _VERDICTS.get(row["verdict"], FAINT)
        ax.plot([row["low"], row["high"]], [height, height], color=colour, lw=2.5, solid_capstyle="butt")
        ax.plot(row["speedup"], height, "o", color=colour, ms=7, mec="white")
        ax.plot(row["flops_ratio"], height, "|", color=INK, ms=11, mew=1.4)
    ax.axvline(1, color=INK, ls="--", lw=1.2, zorder=1)
    ax.set(xlabel="speedup over no compression", ylim=(-0.6, len(shown) - 0.4), yticks=[])
    ax.grid(axis="x", linewidth=0.8)
    ax.set_axisbelow(True)
    return ax


def speed_figure(table: pd.DataFrame, conditions: Conditions) -> Figure:
    """Draws a row of two panels for every setting.

    Args:
        table: Table of `speed_table`.
        conditions: Conditions of the measurement.
    """
    groups = list(groups_of(table))
    tallest = max((rows["method"] != ONE_BY_ONE).sum() for _, rows in groups)
    with house_style():
        figure = Figure(figsize=(12.5, 1.9 + len(groups) * (1.0 + 0.31 * tallest)), layout="constrained")
        axes = figure.subplots(len(groups), 2, squeeze=False, sharex="col", width_ratios=(3, 2))
        for line, (setting, rows) in zip(axes, groups, strict=True):
            draw_parts(parts_data(rows, conditions.new_tokens), line[0])
            draw_speedups(rows, line[1])
            line[0].set_title(setting.title)
        left, right = axes[0][1].get_xlim()  # limits of the whole column
        axes[0][1].set_xlim(min(0.9, left), max(1.1, right))
        legend_above(figure, legend_of(axes[0][:1]))
        caption(figure, "Time of an answer by part, and speedup", _note(table, conditions))
    return figure


def load_figure(memory: pd.DataFrame, trials: pd.DataFrame) -> Figure:
    """Draws memory over the questions of an evaluation, and time over the trials of a study.

    Args:
        memory: Columns `questions` (answered so far) and `bytes` (memory) of one evaluation.
        trials: Columns `trial` (number) and `seconds` (from its start to that of the next trial) of one study;
            consecutive numbers were measured together.
    """
    with house_style():
        figure = Figure(figsize=(10.8, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(memory["questions"], memory["bytes"] / 2**20, color=COLOURS["single"], lw=1.6)
        left.set(xlabel="questions answered", ylabel="memory in MiB")
        right.plot(trials["trial"], 1000 * trials["seconds"], ".", color=FAINT, ms=4, alpha=0.5)
        gaps = trials["trial"].diff().ne(1).cumsum()
        middle = trials.groupby(gaps)[["trial", "seconds"]].median()
        right.plot(middle["trial"], 1000 * middle["seconds"], "o-", color=COLOURS["single"], lw=1.6)
        right.set(xlabel="trials of the study", ylabel="ms per trial")
        for ax in (left, right):
            ax.set(xlim=(0, None), ylim=(0, None))
            ax.grid(axis="y", linewidth=0.8)
            ax.set_axisbelow(True)
        right.set_ylim(0, 1000 * trials["seconds"].quantile(0.98) * 1.3)
        note = (
            f"Left: one evaluation in one process, n = {memory['questions'].max():,} questions; memory without mapped "
            f"files. Right: n = {len(trials)} minimal trials of a study that was filled in between; the line joins "
            "medians."
        )
        caption(figure, "Memory and time of long runs", note)
    return figure


def _note(table: pd.DataFrame, conditions: Conditions) -> str:
    return (
        f"{conditions.model} on {conditions.device}, {conditions.kernel}, {conditions.dtype}; {table['rounds'].max()} "
        f"rounds, {conditions.new_tokens} tokens per answer. Points: geometric mean over rounds with its 95 % "
        "interval; green: faster, red: slower, grey: not significant, Holm-corrected. Strokes: ratio of operations, "
        "vision tower included."
    )


def _named(row: pd.Series) -> str:
    return "no compression" if row["method"] == FULL else f"{row['method']}, {row['budget']} tokens"
