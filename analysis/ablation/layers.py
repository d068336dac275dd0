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

from analysis.ablation.data import Cell, read_cells, runs_of
from analysis.bias.figures import NAMES, draw_layers
from analysis.bias.measures import interval_of, one_random
from analysis.bias.signals import DECODER, RANDOM, ROW, TOWER
from analysis.drawing import FAINT, INK, RIGHT, WRONG, caption, house_style, percent_axis
from analysis.statistics import difference_interval, mean_interval
from analysis.verdicts import holm, paired_p
from foveate.core.errors import DataError

_SINKS = (
    *("signal", "layers", "images", "n", "sink_share", "sink_share_low", "sink_share_high"),
    *("difference", "low", "high", "p"),
)
_OUTCOMES = {  # of a question, alone and by the sum: column of `repairs_data` and colour
    "right both times": ("kept", "#d9d9d9"),
    "repaired by the sum": ("repaired", RIGHT),
    "wrong both times": ("lost", FAINT),
    "broken by the sum": ("broken", WRONG),
}


class Repairs(NamedTuple):
    """What a sum makes of the answers of single layers.

    Whoever else is asked repairs some of a layer's wrong answers too, for a layer's worst questions are partly bad luck
    (regression to the mean). So the controls are asked the same questions.

    Attributes:
        table: A row per single layer: layer, shares of all questions kept, repaired, lost and broken, which sum to 1,
            wrong (questions), and of those with its interval the share that is answered by the sum (`of_wrong`, `_low`,
            `_high`), by the other single layer that is right most often (`other`, and `other_layer`) and by random
            patches (`random`, mean over seeds); by how much the sum exceeds both (`over_other`, `over_random`, `_low`,
            `_high`, and `_p`, paired over images and Holm-corrected over the table). NaN where nothing is known.
        seeds: Of random patches.
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
    seeds: int


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
    families = ("single", RANDOM)
    here = [cell for cell in cells if cell.keep == keep and (cell.family in families or cell.scorer == total)]
    frames = read_cells(here, out, lambda records: {"right": (records["score"] == 1).to_numpy(float)})
    whole = next((cell for cell in frames if cell.scorer == total), None)
    singles = [cell for cell in frames if cell.family == "single"]
    if whole is None or not singles:
        known = ", ".join(dict.fromkeys(cell.scorer for cell in here)) or "nothing of both"
        raise DataError(
            f"{total} and single layers are needed at {keep} patches, the study has {known}: run `make ablate`"
        )
    right = {cell: frame["right"] for cell, frame in frames.items()}
    by_sum, images = right[whole] == 1, frames[whole]["image_id"]
    random = next((cell for cell in frames if cell.family == RANDOM), None)  # of all seeds
    rows = []
    for cell in singles:
        alone = right[cell] == 1
        outcomes = {
            "kept": alone & by_sum,
            "repaired": ~alone & by_sum,
            "lost": ~alone & ~by_sum,
            "broken": alone & ~by_sum,
        }
        row = {"layer": cell.first_layer, **{name: float(which.mean()) for name, which in outcomes.items()}}
        other = max((one for one in singles if one != cell), key=lambda one: right[one].mean(), default=None)
        controls = {name: None if one is None else right[one] for name, one in (("other", other), ("random", random))}
        row |= {"wrong": int((~alone).sum()), "other_layer": np.nan if other is None else other.first_layer}
        seeds = None if random is None else runs_of(frames[random]) == 1
        rows.append(row | _answered(right[whole], controls, seeds, ~alone, images))
    table = pd.DataFrame(rows)
    p = ["over_other_p", "over_random_p"]
    table[p] = holm(table[p].to_numpy(float).ravel()).reshape(-1, 2)
    seeds = 0 if random is None else int(frames[random]["seeds"].iloc[0])
    return Repairs(table, whole.layers, keep, len(images), images.nunique(), seeds)


def _answered(
    by_sum: pd.Series,
    controls: dict[str, pd.Series | None],
    seeds: np.ndarray | None,
    which: pd.Series,
    images: pd.Series,
) -> dict[str, float]:
    """Returns what the sum and the controls answer of some questions, and by how much the sum is better.

    Args:
        by_sum: What the sum answers right.
        controls: What the others do, random patches in the mean over seeds.
        seeds: (question, seed) of random patches.
        which: The questions to look at.
        images: The image of each.
    """
    found: dict[str, float] = {}
    for name, scores in {"of_wrong": by_sum, **controls}.items():
        rate, over = (np.nan,) * 3, (np.nan,) * 4
        if scores is not None and which.any():
            pair = by_sum[which], scores[which], images[which]
            rate = mean_interval(*pair[1:])[:3]
            others = seeds[which] if seeds is not None and name == RANDOM else pair[1]
            over = *difference_interval(*pair)[:3], paired_p(pair[0], others, pair[2])
        found |= {f"{name}{end}": value for end, value in zip(("", "_low", "_high"), rate, strict=True)}
        if name != "of_wrong":
            found |= {f"over_{name}{end}": value for end, value in zip(("", "_low", "_high", "_p"), over, strict=True)}
    return found


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
    """The share of mass on patches of outlying norm, a row per signal and layers; as `bias.data.summary_table`.

    Random maps say how large a share of the patches sinks are. By how much a layer of the tower exceeds them is told by
    `difference`, `low`, `high` and `p_holm`: paired by question, over images, Holm-corrected over the layers of a
    signal; NaN for other signals.

    Args:
        frame: As `analysis.bias.data.signal_frame` gives it.
    """
    known = frame.dropna(subset="sink_share")
    seeds = known[known["signal"] == RANDOM].pivot(index="sample_id", columns="layers", values="sink_share").dropna()
    shown = one_random(known[[*ROW, "sink_share"]], [])
    rows = []
    for (signal, layers), group in shown.groupby(["signal", "layers"], sort=False):
        found = interval_of(group["sink_share"], group["image_id"], "sink_share")
        row = {"signal": signal, "layers": layers, "images": group["image_id"].nunique(), "n": found.n}
        row |= {"sink_share": found.mean, "sink_share_low": found.low, "sink_share_high": found.high}
        both = group[group["sample_id"].isin(seeds.index)]
        if signal in ("cls", "received") and len(both):
            a, b = both["sink_share"].to_numpy(), seeds.loc[both["sample_id"]].to_numpy()
            found = difference_interval(a, b.mean(1), both["image_id"])
            row |= dict(zip(("difference", "low", "high"), found, strict=False)) | {
                "p": paired_p(a, b, both["image_id"])
            }
        rows.append(row)
    table = pd.DataFrame(rows).reindex(columns=_SINKS)
    return table.assign(p_holm=table.groupby("signal", sort=False)["p"].transform(holm)).drop(columns="p")


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
            f"n = {data['n'].max():,} questions about {data['images'].max():,} images. Sinks, also called registers: "
            "patches whose features have an outlying norm (Tukey's rule)."
        )
        if not none:
            note += (
                f" Bands: 95 % intervals over images. Dashed: {NAMES[RANDOM]} patches; dotted: {NAMES['uniform']}: the "
                "share that sinks are of all patches."
            )
        caption(figure, "Do sinks draw the attention?", note)
    return figure
