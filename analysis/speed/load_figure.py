"""What long runs cost: memory over the questions of an evaluation, time over the trials of a study."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.drawing import COLOURS, FAINT, caption, house_style


def load_figure(memory: pd.DataFrame, trials: pd.DataFrame) -> Figure:
    """Both, side by side.

    Args:
        memory: `questions` that were answered and `bytes` of memory at moments of one evaluation.
        trials: Of one study `seconds` from the beginning of a trial to that of the next one, whose number is `trial`;
            numbers that follow each other were measured together.
    """
    with house_style():
        figure = Figure(figsize=(10.8, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(memory["questions"], memory["bytes"] / 2**20, color=COLOURS["single"], lw=1.6)
        _axes(left, "questions answered", "memory of its own in MiB")
        right.plot(trials["trial"], 1000 * trials["seconds"], ".", color=FAINT, ms=4, alpha=0.5)
        gaps = trials["trial"].diff().ne(1).cumsum()
        middle = trials.groupby(gaps)[["trial", "seconds"]].median()
        right.plot(middle["trial"], 1000 * middle["seconds"], "o-", color=COLOURS["single"], lw=1.6)
        _axes(right, "trials of the study", "ms from one trial to the next")
        right.set_ylim(0, 1000 * trials["seconds"].quantile(0.98) * 1.3)
        note = (
            f"Left: one evaluation in one process, n = {memory['questions'].max():,} questions; memory without mapped "
            f"files. Right: n = {len(trials)} trials of next to nothing, run in a study that was filled up in between; "
            "the line joins medians."
        )
        caption(figure, "What long runs cost from beginning to end", note)
    return figure


def _axes(ax: Axes, x: str, y: str) -> None:
    ax.set(xlabel=x, ylabel=y, xlim=(0, None), ylim=(0, None))
    ax.grid(axis="y", linewidth=0.8)
    ax.set_axisbelow(True)
