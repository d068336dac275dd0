"""Figures of a bias measurement: [CLS] layer against block, token by token of the answer, and single heads."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.bias.figures import BY_LAYER, COLOURS_OF, MARKERS, NAMES, legend
from analysis.bias.signals import DECODER, TOWER
from analysis.drawing import FAINT, INK, caption, house_style


def draw_cross(rows: pd.DataFrame, measure: str, ax: Axes) -> Axes:
    """Draws a line with its band per block of one signal, over the layers of the tower.

    Args:
        rows: Of `cross_table`, one signal's.
        measure: Its column.
        ax: Where to draw.
    """
    blocks = sorted(rows["block"].unique())
    for block, colour in zip(blocks, sns.color_palette("viridis", len(blocks)), strict=True):
        line = rows[rows["block"] == block].sort_values("layer")
        ax.fill_between(line["layer"], line[f"{measure}_low"], line[f"{measure}_high"], color=colour, alpha=0.16, lw=0)
        ax.plot(line["layer"], line[measure], "o-", color=colour, lw=1.8, ms=5, label=f"block {block}")
    _dress(ax)
    return ax


def cross_figure(table: pd.DataFrame, source: str, measure: str = "spearman") -> Figure:
    """Draws a panel per signal of the language model.

    Args:
        table: As `cross_table` gives it.
        source: Model and data, for the footnote.
        measure: Its column.
    """
    signals = list(dict.fromkeys(table["signal"]))
    best = table.sort_values(measure).iloc[-1]
    with house_style():
        figure = Figure(figsize=(3.3 * len(signals) + 1.2, 4.2), layout="constrained")
        axes = figure.subplots(1, len(signals), sharey=True, squeeze=False)[0]
        for ax, signal in zip(axes, signals, strict=True):
            draw_cross(table[table["signal"] == signal], measure, ax)
            ax.set(title=NAMES[signal], xlabel="[CLS] of layer")
        axes[0].set_ylabel(measure.capitalize())
        figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=10.5, loc="outside right upper")
        text = (
            f"{source}; n = {table['n'].max():,} questions with long answers; bands: 95 % intervals over images. The "
            "pair in the title was picked on these questions."
        )
        title = f"Most alike: [CLS] of layer {best['layer']} and {NAMES[best['signal']]}, block {best['block']}"
        caption(figure, title, text)
    return figure


def draw_tokens(rows: pd.DataFrame, measure: str, ax: Axes) -> Axes:
    """Draws a line with its band per signal, over the tokens of the answer.

    Args:
        rows: Of `tokens_table`.
        measure: A column of it.
        ax: Where to draw.
    """
    for number, ((signal, layers), line) in enumerate(rows.groupby(["signal", "layers"], sort=False)):
        style = {"color": COLOURS_OF[str(signal)], "ls": ("-", "--")[number % 2], "marker": MARKERS[str(signal)]}
        ax.fill_between(
            line["token"], line[f"{measure}_low"], line[f"{measure}_high"], color=style["color"], alpha=0.16, lw=0
        )
        ax.plot(line["token"], line[measure], lw=1.8, ms=5, label=f"{NAMES[str(signal)]} {layers}", **style)
    _dress(ax)
    return ax


def tokens_figure(table: pd.DataFrame, source: str) -> Figure:
    """Draws how near signals are to the row that produces each token, and what that row itself finds.

    Args:
        table: As `tokens_table` gives it.
        source: Model and data, for the footnote.
    """
    with house_style():
        figure = Figure(figsize=(13, 4.6), layout="constrained")
        near, own = figure.subplots(1, 2)
        draw_tokens(table, "spearman", near)
        itself = table.drop_duplicates("token")
        for measure, name, colour in (
            ("evidence_recall", "evidence in its top", COLOURS_OF["evidence"]),
            ("thinned_share", "worth in its top (thinned context)", INK),
        ):
            low, high = itself[f"{measure}_low"], itself[f"{measure}_high"]
            own.fill_between(itself["token"], low, high, color=colour, alpha=0.16, lw=0)
            own.plot(itself["token"], itself[measure], "o-", color=colour, lw=1.8, ms=5, label=name)
        _dress(own)
        near.set(xlabel="token of the answer", ylabel="Spearman with the token's row")
        own.set(xlabel="token of the answer", ylabel="share", title="what the token's own row finds")
        for ax in (near, own):
            ax.legend(frameon=False, fontsize=10)
        sizes, last = itself["n"], itself["token"].iloc[-1]
        text = (
            f"{source}; n = {sizes.iloc[0]:,} questions at token 0, {sizes.iloc[-1]:,} at token {last}; "
            "bands: 95 % intervals over images. Token 0 is produced by the last prompt token."
        )
        caption(figure, _tokens_title(table), text)
    return figure


def draw_heads(heads: pd.DataFrame, measure: str, names: Sequence[str], ax: Axes) -> Axes:
    """Draws a dot per head, beside each other by signal; `heads` as `heads_table` gives it, single layers only."""
    rows = heads[heads["signal"].isin(names) & heads["layers"].str.isdigit()]
    rows = rows.assign(layer=rows["layers"].astype(int))
    shown = [name for name in names if name in set(rows["signal"])]
    if shown:
        colours = {name: COLOURS_OF[name] for name in shown}
        style: dict[str, Any] = {"palette": colours, "hue_order": shown, "size": 4.5, "jitter": False, "legend": False}
        sns.stripplot(rows, x="layer", y=measure, hue="signal", dodge=len(shown) > 1, ax=ax, **style)
    for name in shown:
        ax.plot([], [], "o", color=COLOURS_OF[name], label=NAMES[name])
    for edge in np.arange(rows["layer"].nunique() - 1) + 0.5:
        ax.axvline(edge, color="#e6e6e6", lw=0.8, zorder=0)
    ax.axhline(0, color=FAINT, lw=0.8, zorder=0)
    ax.grid(axis="y", linewidth=0.8)
    ax.set_axisbelow(True)
    return ax


def heads_figure(heads: pd.DataFrame, source: str, measure: str = "spearman_response") -> Figure:
    """Draws the tower on the left, the language model on the right; `heads` as `heads_table` gives it."""
    with house_style():
        figure = Figure(figsize=(14, 5.2), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for ax, names in zip(axes, (TOWER, DECODER), strict=True):
            draw_heads(heads, measure, names, ax)
        axes[0].set(xlabel="layer of the vision tower", ylabel=BY_LAYER[measure].replace("\n", " "))
        axes[1].set(xlabel="block of the language model", ylabel="")
        legend(figure, axes)
        text = f"{source}; a dot per head: its mean over n = {heads['n'].max():,} questions. Intervals: heads.csv."
        single = heads[heads["signal"].isin(TOWER)]
        spread = single.groupby(["signal", "layers"])[measure].agg(np.ptp).max() if len(single) else np.nan
        caption(figure, f"Heads of one layer of the tower differ by up to {spread:.2f}", text)
    return figure


def _tokens_title(table: pd.DataFrame) -> str:
    prompt = table[(table["signal"] == "prompt")].sort_values("token")
    if len(prompt) < 2:
        return "What each token of the answer looks at"
    first, last = prompt.iloc[0], prompt.iloc[-1]
    return (
        f"Spearman of the last prompt token with the answer's rows: {first['spearman']:.2f} at token {first['token']}, "
        f"{last['spearman']:.2f} at token {last['token']}"
    )


def _dress(ax: Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.tick_params(labelsize=11, color=FAINT, labelcolor=INK)
    ax.grid(axis="y", linewidth=0.8)
    ax.set_axisbelow(True)
