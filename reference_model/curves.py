"""The figure of a training: what held-out images show of both stages, epoch by epoch."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from foveate.analysis.drawing import COLOURS, FAINT, INK, Label, house_style, label_lines, percent_axis, save_figure
from foveate.data.scenes.questions import QUESTION_KINDS
from reference_model.vision_training import VisionPhase

_VISION = {
    "caption": "image against captions",
    "phrase": "image against phrases",
    "kind": "kind of a patch",
    "character": "character of a patch",
}
_ABOUT = {"things": COLOURS["single"], "details": COLOURS["suffix"]}


def training_figure(folder: Path, seed: int, phases: Sequence[VisionPhase]) -> None:
    """Draws the logs of both stages in `folder` to `<folder>/training.png`.

    Args:
        folder: The training's folder.
        seed: The seed of the training.
        phases: Its phases of the vision stage, whose log does not name them.
    """
    with house_style():
        figure = Figure(figsize=(14, 6), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.6))
        _vision(left, _epochs(folder / "vision", "caption"), phases)
        _language(right, _epochs(folder / "language", "all/color"))
        figure.suptitle(f"Accuracy on held-out images while seed {seed} is trained", x=0.01, ha="left", fontsize=15)
        save_figure(figure, folder / "training.png")


def _epochs(stage: Path, measure: str) -> pd.DataFrame:
    """Returns the values of each epoch that was validated, logged by one run or several that continued each other.

    Args:
        stage: The stage's folder.
        measure: A column that every validation writes.
    """
    logs = sorted(stage.glob("log/version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1]))
    return pd.concat([pd.read_csv(log) for log in logs]).groupby("epoch").last().dropna(subset=[measure])


def _vision(ax: Axes, log: pd.DataFrame, phases: Sequence[VisionPhase]) -> None:
    ax.set_title("1. CLIP")
    starts = list(accumulate(phase.epochs for phase in phases))[:-1]
    for name in _VISION:
        ax.plot(log.index, log[name], color=INK, linewidth=1.5)
    _finish(ax, [Label(log.index[-1], log[name].iloc[-1], text, INK) for name, text in _VISION.items()], starts, log)


def _language(ax: Axes, log: pd.DataFrame) -> None:
    """Draws the accuracy with all tokens: one line per type of question, by what it asks about, and their mean."""
    ax.set_title("2. Language model, all tokens")
    for kind, question in QUESTION_KINDS.items():
        ax.plot(log.index, log[f"all/{kind}"], color=_ABOUT[question.about], linewidth=1.2)
    mean = log[[f"all/{kind}" for kind in QUESTION_KINDS]].mean(axis=1)
    ax.plot(log.index, mean, color=INK, linewidth=3)
    labels = [
        Label(log.index[-1], log[f"all/{kind}"].iloc[-1], kind, _ABOUT[question.about])
        for kind, question in QUESTION_KINDS.items()
    ]
    starts = log.index[log["phase"].diff() > 0]
    _finish(ax, [*labels, Label(log.index[-1], mean.iloc[-1], "mean", INK)], starts, log)


def _finish(ax: Axes, labels: list[Label], starts: Iterable[int], log: pd.DataFrame) -> None:
    """Marks the first epoch of each phase, names the lines, and labels the axes."""
    for start in starts:
        ax.axvline(start - 0.5, color=FAINT, linewidth=0.8, linestyle=":")
    ax.set(xlabel="epoch (dotted: a new phase)", xlim=(0, log.index[-1]), ylim=(0, 1.02))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    percent_axis(ax)
    label_lines(ax, labels)
