"""Figures of slices of a bias measurement: [CLS] layer against block, answer tokens, heads and sinks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from foveate.analysis.bias.figures import BY_LAYER, COLOURS_OF, MARKERS, NAMES, draw_layers, legend
from foveate.analysis.bias.measures import DECODER, RANDOM, TOWER
from foveate.analysis.drawing import FAINT, INK, caption, house_style, legend_above, legend_of, percent_axis


def draw_cross(rows: pd.DataFrame, measure: str, ax: Axes) -> Axes:
    """Draws a line with a band per block of one signal, over the layers of the tower.

    Args:
        rows: Rows of `cross_table` of one signal.
        measure: Column of the rows.
        ax: Axes to draw on.
    """
    blocks = sorted(rows["block"].unique())
    for block, colour in zip(blocks, sns.color_palette("viridis", len(blocks)), strict=True):
        line = rows[rows["block"] == block].sort_values("layer")
        ax.fill_between(line["layer"], line[f"{measure}_low"], line[f"{measure}_high"], color=colour, alpha=0.16, lw=0)
        ax.plot(line["layer"], line[measure], "o-", color=colour, lw=1.8, ms=5, label=f"block {block}")
    _style(ax)
    return ax


def cross_figure(table: pd.DataFrame, source: str, measure: str = "spearman") -> Figure:
    """Draws a panel per signal of the language model.

    Args:
        table: Table of `cross_table`.
        source: Model and data, for the footnote.
        measure: Column of the table.
    """
    signals = list(dict.fromkeys(table["signal"]))
    with house_style():
        figure = Figure(figsize=(3.3 * len(signals) + 1.2, 4.2), layout="constrained")
        axes = figure.subplots(1, len(signals), sharey=True, squeeze=False)[0]
        for ax, signal in zip(axes, signals, strict=True):
            draw_cross(table[table["signal"] == signal], measure, ax)
            ax.set(title=NAMES[signal], xlabel="[CLS] of layer")
        axes[0].set_ylabel(measure.capitalize())
        figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=10.5, loc="outside right upper")
        text = f"{source}; n = {table['n'].max():,} questions with long answers; bands: 95 % intervals over images."
        caption(figure, "Similarity of [CLS] attention and language model", text)
    return figure


def draw_tokens(rows: pd.DataFrame, measure: str, ax: Axes) -> Axes:
    """Draws a line with a band per signal, over the tokens of the answer.

    Args:
        rows: Rows of `tokens_table`.
        measure: Column of the rows.
        ax: Axes to draw on.
    """
    for number, ((signal, layers), line) in enumerate(rows.groupby(["signal", "layers"], sort=False)):
        style = {"color": COLOURS_OF[str(signal)], "ls": ("-", "--")[number % 2], "marker": MARKERS[str(signal)]}
        ax.fill_between(
            line["token"], line[f"{measure}_low"], line[f"{measure}_high"], color=style["color"], alpha=0.16, lw=0
        )
        ax.plot(line["token"], line[measure], lw=1.8, ms=5, label=f"{NAMES[str(signal)]} {layers}", **style)
    _style(ax)
    return ax


def tokens_figure(table: pd.DataFrame, source: str) -> Figure:
    """Draws the nearness of signals to the row that produces each token, and the measures of that row.

    Args:
        table: Table of `tokens_table`.
        source: Model and data, for the footnote.
    """
    with house_style():
        figure = Figure(figsize=(13, 4.6), layout="constrained")
        near, own = figure.subplots(1, 2)
        draw_tokens(table, "spearman", near)
        itself = table.drop_duplicates("token")
        for measure, name, colour in (
            ("evidence_recall", "evidence recall", COLOURS_OF["evidence"]),
            ("thinned_share", "worth in the top (thinned context)", INK),
        ):
            low, high = itself[f"{measure}_low"], itself[f"{measure}_high"]
            own.fill_between(itself["token"], low, high, color=colour, alpha=0.16, lw=0)
            own.plot(itself["token"], itself[measure], "o-", color=colour, lw=1.8, ms=5, label=name)
        _style(own)
        near.set(xlabel="token of the answer", ylabel="Spearman with the token's row")
        own.set(xlabel="token of the answer", ylabel="share", title="the token's own row")
        legend_above(figure, legend_of((near, own)), columns=3)
        sizes, last = itself["n"], itself["token"].iloc[-1]
        text = (
            f"{source}; n = {sizes.iloc[0]:,} questions at token 0, {sizes.iloc[-1]:,} at token {last}; "
            "bands: 95 % intervals over images. The last prompt token produces token 0."
        )
        caption(figure, "Attention by token of the answer", text)
    return figure


def draw_heads(heads: pd.DataFrame, measure: str, names: Sequence[str], ax: Axes) -> Axes:
    """Draws a dot per head and single layer.

    Args:
        heads: Table of `heads_table`.
        measure: Column of the table.
        names: Signals of one side of the model.
        ax: Axes to draw on.
    """
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
    """Draws the heads of the vision tower on the left and of the language model on the right.

    Args:
        heads: Table of `heads_table`.
        source: Model and data, for the footnote.
        measure: Column of the table.
    """
    with house_style():
        figure = Figure(figsize=(14, 5.2), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for ax, names in zip(axes, (TOWER, DECODER), strict=True):
            draw_heads(heads, measure, names, ax)
        axes[0].set(xlabel="layer of the vision tower", ylabel=BY_LAYER[measure].replace("\n", " "))
        axes[1].set(xlabel="block of the language model", ylabel="")
        legend(figure, axes)
        text = (
            f"{source}; a dot is the mean of a head over n = {heads['n'].max():,} questions; heads.csv has intervals."
        )
        caption(figure, "Attention by head", text)
    return figure


def draw_sinks(data: pd.DataFrame, names: Sequence[str], ax: Axes) -> Axes:
    """Draws the share of attention on sinks by layer with controls, or a note that there are no sinks.

    Args:
        data: Table of `sinks_data`.
        names: Signals of one side of the model.
        ax: Axes to draw on.
    """
    if (data["sink_share"] == 0).all():
        ax.text(0.5, 0.5, "no patch is a sink", transform=ax.transAxes, ha="center", va="center", color=INK)
        ax.set(xticks=[], yticks=[])
        return ax
    draw_layers(data, "sink_share", names, ax)
    percent_axis(ax)
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    return ax


def sinks_figure(data: pd.DataFrame) -> Figure:
    """Draws the sinks of the vision tower on the left and of the language model on the right."""
    with house_style():
        none = (data["sink_share"] == 0).all()
        figure = Figure(figsize=(12.5, 2.2 if none else 4.4), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for ax, names in zip(axes, (TOWER, DECODER), strict=True):
            draw_sinks(data, names, ax)
        top = max(0.05, float(data["sink_share_high"].max()))
        axes[0].set(xlabel="layer of the vision tower", ylabel="attention on sinks", ylim=(-0.03 * top, 1.06 * top))
        axes[1].set(xlabel="block of the language model", ylabel="")
        if shown := legend_of(axes):
            figure.legend(shown.values(), shown.keys(), frameon=False, fontsize=10.5, loc="outside right upper")
        note = (
            f"n = {data['n'].max():,} questions about {data['images'].max():,} images. Sinks "
            "(registers): patches whose features have an outlying norm (Tukey's rule)."
        )
        if not none:
            note += f" Bands: 95 % intervals over images; dashed and dotted: {NAMES[RANDOM]} and {NAMES['uniform']}."
        caption(figure, "Attention on sinks", note)
    return figure


def _style(ax: Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.tick_params(labelsize=11, color=FAINT, labelcolor=INK)
    ax.grid(axis="y", linewidth=0.8)
    ax.set_axisbelow(True)
