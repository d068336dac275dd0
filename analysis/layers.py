"""Why a sum of layers can answer what one of its layers cannot: failures that it repairs, and mass on sinks."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.ablation import Cell, read_cells
from analysis.bias import DECODER, RANDOM, TOWER, interval_of
from analysis.bias_figures import NAMES, draw_layers
from analysis.drawing import FAINT, INK, RIGHT, WRONG, caption, house_style, percent_axis
from analysis.statistics import Interval, mean_interval
from analysis.tables import percent
from foveate.core.errors import DataError

_OUTCOMES = {  # of a question, alone and by the sum: column of `repairs_data` and colour
    "right both times": ("kept", "#d9d9d9"),
    "repaired by the sum": ("repaired", RIGHT),
    "wrong both times": ("lost", FAINT),
    "broken by the sum": ("broken", WRONG),
}


class Repairs(NamedTuple):
    """What a sum makes of the answers of single layers.

    Attributes:
        table: A row per single layer: layer, shares of all questions kept, repaired, lost and broken, which sum to 1,
            wrong (questions), and of those the share repaired with its interval: of_wrong, of_wrong_low, of_wrong_high.
        layers: Of the sum.
        keep: Patches kept.
        n: Questions.
        images: Images.
    """

    table: pd.DataFrame
    layers: str
    keep: int
    n: int
    images: int


def repairs_data(cells: Iterable[Cell], out: Path, keep: int, total: str = "cls[all]") -> Repairs:
    """Counts answers, right where the score is 1, of every single layer and of a sum at the same budget.

    Args:
        cells: Of an ablation.
        out: Folder that holds `records/`.
        keep: The budget.
        total: The scorer that sums.

    Raises:
        DataError: The sum or every single layer is missing at this budget.
    """
    here = [cell for cell in cells if cell.keep == keep and (cell.family == "single" or cell.scorer == total)]
    frames = read_cells(here, out)
    whole = next((cell for cell in frames if cell.scorer == total), None)
    singles = [cell for cell in frames if cell.family == "single"]
    if whole is None or not singles:
        known = ", ".join(dict.fromkeys(cell.scorer for cell in here)) or "nothing of both"
        raise DataError(
            f"{total} and single layers are needed at {keep} patches, the study has {known}: run `make ablate`"
        )
    by_sum, images = frames[whole]["score"] == 1, frames[whole]["image_id"]
    rows = []
    for cell in singles:
        alone = frames[cell]["score"] == 1
        outcomes = {
            "kept": alone & by_sum,
            "repaired": ~alone & by_sum,
            "lost": ~alone & ~by_sum,
            "broken": alone & ~by_sum,
        }
        rate = Interval(np.nan, np.nan, np.nan, 0)
        if (~alone).any():
            rate = mean_interval(by_sum[~alone].astype(float), images[~alone])
        row = {"layer": cell.first_layer, **{name: float(which.mean()) for name, which in outcomes.items()}}
        rows.append(
            row | {"wrong": rate.n, "of_wrong": rate.mean, "of_wrong_low": rate.low, "of_wrong_high": rate.high}
        )
    return Repairs(pd.DataFrame(rows), whole.layers, keep, len(images), images.nunique())


def draw_repairs(data: Repairs, ax: Axes) -> Axes:
    """A stacked bar per layer: what becomes of its answers when the sum chooses the patches."""
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
    ax.set(xlabel="single layer of the vision tower", ylabel="questions", ylim=(0, 1))
    percent_axis(ax)
    return ax


def repairs_figure(data: Repairs) -> Figure:
    """The bars with title and caption."""
    with house_style():
        figure = Figure(figsize=(10.8, 4.4), layout="constrained")
        draw_repairs(data, figure.subplots())
        note = (
            f"{data.keep} patches kept; n = {data.n:,} questions about {data.images:,} images, right at score 1. "
            f"Each bar compares patches that one layer chose with those that the sum of layers {data.layers} chose."
        )
        caption(figure, "What the sum makes of the answers of one layer", note)
    return figure


def sinks_data(frame: pd.DataFrame) -> pd.DataFrame:
    """The share of mass on patches of outlying norm, a row per signal and layers; as `analysis.bias.summary_table`.

    Args:
        frame: As `analysis.bias.signal_frame` gives it. Random maps say how large a share of the patches sinks are.
    """
    rows = []
    for (signal, layers), group in frame.dropna(subset="sink_share").groupby(["signal", "layers"], sort=False):
        found = interval_of(group["sink_share"], group["image_id"], "sink_share")
        row = {"signal": signal, "layers": layers, "images": group["image_id"].nunique(), "n": found.n}
        rows.append(row | {"sink_share": found.mean, "sink_share_low": found.low, "sink_share_high": found.high})
    return pd.DataFrame(rows)


def draw_sinks(data: pd.DataFrame, names: Sequence[str], ax: Axes) -> Axes:
    """The share of mass on sinks by layer, dashed and dotted: controls; or that there are none."""
    if (data["sink_share"] == 0).all():
        ax.text(0.5, 0.5, "no patch is a sink", transform=ax.transAxes, ha="center", va="center", color=INK)
        ax.set(xticks=[], yticks=[])
        return ax
    draw_layers(data, "sink_share", names, ax)
    percent_axis(ax)
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    return ax


def sinks_figure(data: pd.DataFrame) -> Figure:
    """The vision tower on the left, the language model on the right."""
    with house_style():
        none = (data["sink_share"] == 0).all()
        figure = Figure(figsize=(12.5, 2.2 if none else 4.4), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for ax, names in zip(axes, (TOWER, DECODER), strict=True):
            draw_sinks(data, names, ax)
        top = max(0.05, float(data["sink_share_high"].max()))
        axes[0].set(xlabel="layer of the vision tower", ylabel="mass on sinks", ylim=(-0.03 * top, 1.06 * top))
        axes[1].set(xlabel="block of the language model", ylabel="")
        shown = {}
        for ax in axes:
            shown |= {name: handle for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
        if shown:
            figure.legend(shown.values(), shown.keys(), frameon=False, fontsize=10.5, loc="outside right upper")
        note = (
            f"n = {data['n'].max():,} questions about {data['images'].max():,} images; bands: 95 % intervals over "
            f"images. Sinks, also called registers: patches whose features have an outlying norm (Tukey's rule). "
            f"Dashed: {NAMES[RANDOM]} patches; dotted: {NAMES['uniform']}: the share that sinks are of all patches."
        )
        caption(figure, "Do sinks draw the attention?", note)
    return figure


def layers_answer(repairs: Repairs, sinks: pd.DataFrame) -> str:
    """What the sum repairs of the worst and of the last layer, and what part of attention falls on sinks, in words."""
    table = repairs.table
    last, worst = (table.iloc[int(table[name].argmax())] for name in ("layer", "wrong"))
    parts = [
        f"At {repairs.keep} patches (n = {repairs.n:,} questions about {repairs.images:,} images), with patches chosen "
        f"by the sum of layers {repairs.layers}: {_repaired(last, repairs.n, 'the last layer')}"
    ]
    if worst["layer"] != last["layer"]:
        parts.append(_repaired(worst, repairs.n, "the worst layer"))
    if sinks.empty or sinks["n"].max() == 0:
        parts.append("Whether sinks play a part was not measured.")
    else:
        parts.append(_on_sinks(sinks))
    return "\n\n".join(parts)


def _repaired(row: pd.Series, n: int, what: str) -> str:
    name = f"{what}, {row['layer']:.0f},"
    if row["wrong"] == 0:
        return f"{name} answers all questions itself."
    rate = f"{percent(row['of_wrong'])} % [{percent(row['of_wrong_low'])}, {percent(row['of_wrong_high'])}]"
    return (
        f"of the {row['wrong']:.0f} questions that {name} gets wrong the sum answers {rate}; it breaks "
        f"{round(row['broken'] * n)} of the {n - row['wrong']:.0f} others."
    )


def _on_sinks(sinks: pd.DataFrame) -> str:
    known = {(row["signal"], row["layers"]): row for _, row in sinks.iterrows()}
    even = known.get((RANDOM, ""))
    tower = {key: row for key, row in known.items() if key[0] == "cls"} or {
        key: row for key, row in known.items() if key[0] == "received"
    }
    if not tower:
        return "No layer of the tower was measured for sinks."
    key, most = max(tower.items(), key=lambda one: one[1]["sink_share"])
    share = f"{percent(most['sink_share'])} % [{percent(most['sink_share_low'])}, {percent(most['sink_share_high'])}]"
    beside = "" if even is None else f"; of random patches {percent(even['sink_share'])} % are sinks"
    size = f"n = {most['n']:,} questions about {most['images']:,} images"
    if most["sink_share"] == 0 and (even is None or even["sink_share"] == 0):
        return f"This model has no sinks: no patch of these pictures has an outlying norm ({size})."
    verdict = ""
    if even is not None:
        told = (
            "more than an even share"
            if most["sink_share_low"] > even["sink_share"]
            else "not surely more than an even share"
        )
        verdict = f", {told}"
    return f"The layer with most mass on sinks is {key[1]}: {share}{verdict}{beside} ({size})."
