"""Figures of a search: history, importance, weights, proxy, confirming split and Pareto front."""

import math
from typing import Any

import numpy as np
import optuna
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from foveate.analysis.drawing import (
    COLOURS,
    FAINT,
    INK,
    Label,
    caption,
    house_style,
    label_lines,
    legend_above,
    legend_of,
    percent_axis,
)
from foveate.analysis.search.confirmed import BASELINES, Front
from foveate.analysis.search.data import Importance, Proxy, history_data

_SOURCES = {
    "default": ("published default", COLOURS["evidence"]),
    "ensemble": ("uniform ensemble", COLOURS["all"]),
    "single": ("single layer", COLOURS["single"]),
    "spaced": ("even sample of the prior", FAINT),
    "proxy": ("best of the proxy", COLOURS["uniform"]),
    "sampler": ("sampler", COLOURS["suffix"]),
}
_UNITS = {
    "quality": "mean log-probability of the reference",
    "accuracy": "accuracy",
    "tokens": "equivalent tokens",
    "latency": "ms per question",
}
_ROLES = {  # colour, width, marker, order of drawing
    "among the ten best": ("#b5b5b5", 0.8, "o", 1),
    "uniform ensemble": (COLOURS["all"], 1.6, "s", 2),
    "published default": (COLOURS["evidence"], 1.6, "D", 2),
    "winner": (COLOURS["suffix"], 2.6, "o", 3),
}
_PERCENT = PercentFormatter(1, decimals=0, symbol=" %")


def draw_history(history: pd.DataFrame, ax: Axes) -> Axes:
    """Draws the values of one goal: rings for trials that were stopped early, crosses for infeasible ones."""
    goal = history["goal"].iloc[0]
    for source, (name, colour) in _SOURCES.items():
        rows = history[history["source"] == source]
        if rows.empty:
            continue
        whole = rows[~rows["stopped"] & rows["feasible"]]
        ax.scatter(whole["number"], whole["value"], s=26, color=colour, label=name, zorder=3)
        rings = rows[rows["stopped"] & rows["feasible"]]
        ax.scatter(rings["number"], rings["value"], s=26, facecolors="none", edgecolors=colour, zorder=3)
        crosses = rows[~rows["feasible"]]
        ax.scatter(crosses["number"], crosses["value"], s=26, color=colour, marker="x", zorder=3)
    ax.step(history["number"], history["best"], where="post", color=INK, linewidth=1, label="best so far")
    ax.set(xlabel="trial", ylabel=_UNITS[goal])
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.grid(axis="y")
    ax.set_axisbelow(True)
    if goal == "accuracy":
        ax.yaxis.set_major_formatter(_PERCENT)
    return ax


def history_figure(study: optuna.Study) -> Figure:
    """Draws a panel per goal."""
    history = history_data(study)
    panels = [rows for _, rows in history.groupby("goal", sort=False)]
    with house_style():
        figure = Figure(figsize=(11, 0.9 + (3.9 if len(panels) == 1 else 2.7 * len(panels))), layout="constrained")
        axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
        for ax, rows in zip(axes, panels, strict=True):
            draw_history(rows, ax).label_outer()
        shown = legend_of(axes)
        figure.legend(shown.values(), shown.keys(), frameon=False, fontsize=10.5, loc="outside right upper")
        caption(figure, "History of the search", _history_note(history))
    return figure


def draw_importance(data: Importance, ax: Axes) -> Axes:
    """Draws a bar per dimension; a name has the number of trials if not all trials have the dimension."""
    names = list(data.shares)[::-1]
    labels = [name if data.rests[name] == data.trials else f"{name} ({data.rests[name]})" for name in names]
    ax.barh(labels, [data.shares[name] for name in names], color=COLOURS["single"])
    for height, name in enumerate(names):
        share = data.shares[name]
        ax.text(share + 0.012, height, f"{100 * share:.0f} %", va="center", fontsize=10, color=FAINT)
    ax.set(xlabel="share of importance", title=f"{data.goal}, {data.trials} trials", xlim=(0, 1))
    ax.xaxis.set_major_formatter(_PERCENT)
    if not names:
        ax.set_yticks([])
        ax.text(
            0.5, 0.5, data.why or "not determined by these trials", ha="center", transform=ax.transAxes, color=FAINT
        )
    return ax


def importance_figure(importances: list[Importance]) -> Figure:
    """Draws a panel per goal."""
    longest = max(len(one.shares) for one in importances)
    with house_style():
        figure = Figure(figsize=(5.5 * len(importances) + 1.5, 1.9 + 0.36 * max(longest, 3)), layout="constrained")
        for ax, one in zip(figure.subplots(1, len(importances), squeeze=False)[0], importances, strict=True):
            draw_importance(one, ax)
        why = "".join(f" {one.goal.capitalize()}: {one.why}." for one in importances if one.why and one.shares)
        note = f"PED-ANOVA of the best tenth of the trials; brackets: trials with a dimension, if not all.{why}"
        caption(figure, "Importance of the dimensions", note)
    return figure


def draw_weights(weights: pd.DataFrame, feature_layer: int, ax: Axes) -> Axes:
    """Draws the weights of the layers, without the ten best trials if there are several winners."""
    several = weights.loc[weights["role"] == "winner", "trial"].nunique() > 1
    for role, (colour, width, marker, order) in _ROLES.items():
        if several and role == "among the ten best":
            continue
        name, width = ("on the front", 1.0) if several and role == "winner" else (role, width)
        for number, (_, line) in enumerate(weights[weights["role"] == role].groupby("trial")):
            label = name if number == 0 else None
            ax.plot(
                line["layer"], line["weight"], marker, ls="-", color=colour, lw=width, ms=5, label=label, zorder=order
            )
    _mark(ax, feature_layer)
    percent_axis(ax)
    ax.set(ylabel="weight", ylim=(0, None))
    handles, names = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], names[::-1], frameon=False, fontsize=10.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def draw_singles(singles: pd.DataFrame, ax: Axes) -> Axes:
    """Draws the accuracy of each single layer with its interval."""
    errors = [singles["accuracy"] - singles["ci_low"], singles["ci_high"] - singles["accuracy"]]
    clipped = np.clip(errors, 0, None)  # rounding may make an error at 0 or 1 negative
    ax.errorbar(singles["layer"], singles["accuracy"], clipped, fmt="o-", color=COLOURS["single"], lw=1.2, elinewidth=2)
    percent_axis(ax)
    ax.set_ylabel("accuracy of\na single layer")
    return ax


def weights_figure(weights: pd.DataFrame, feature_layer: int, singles: pd.DataFrame | None = None) -> Figure:
    """Draws the weights of the layers, and below them the accuracy of each single layer if it was evaluated."""
    alone = singles if singles is not None and len(singles) > 1 else None
    several = weights.loc[weights["role"] == "winner", "trial"].nunique() > 1
    note = "Weights sum to 1." + ("" if several else " Thin: the ten best trials.")
    with house_style():
        figure = Figure(figsize=(10, 4.6 if alone is None else 6.8), layout="constrained")
        ratios = [1] if alone is None else [1.6, 1]
        axes = figure.subplots(len(ratios), 1, squeeze=False, sharex=True, height_ratios=ratios)[:, 0]
        draw_weights(weights, feature_layer, axes[0])
        if alone is not None:
            draw_singles(alone, axes[1])
            _mark(axes[1], feature_layer)
            note += (
                f" Below: n = {alone['n'].iloc[0]:,} questions about {alone['images'].iloc[0]:,} images of the "
                "searched split; 95 % intervals over images."
            )
        axes[-1].set_xlabel("layer of the vision tower")
        axes[-1].xaxis.set_major_locator(MaxNLocator(13, integer=True, min_n_ticks=1))
        caption(figure, "Weights of the layers", f"{note} Shaded: layer that writes the features.")
    return figure


def draw_proxy(proxy: Proxy, signal: str, ax: Axes) -> Axes:
    """Draws one signal of the proxy against accuracy, with the rank correlation in the title."""
    rho = proxy.correlations[signal, "accuracy"]
    ax.scatter(proxy.trials[signal], proxy.trials["accuracy"], color=COLOURS["single"], s=30, zorder=3)
    percent_axis(ax)
    shown = f"rank correlation {rho.value:.2f} [{rho.low:.2f}, {rho.high:.2f}]"
    ax.set_title("rank correlation undefined" if np.isnan(rho.value) else shown)
    return ax


def proxy_figure(proxy: Proxy, signal: str) -> Figure:
    """Draws the proxy's agreement, and kept evidence where known, against accuracy."""
    names = {"agreement": f"agreement with {signal}", "evidence_recall": "evidence kept"}
    known = [name for name in names if (name, "accuracy") in proxy.correlations]
    with house_style():
        figure = Figure(figsize=(5.6 * len(known) + 0.9, 4.8), layout="constrained")
        axes = figure.subplots(1, len(known), squeeze=False, sharey=True)[0]
        for ax, name in zip(axes, known, strict=True):
            draw_proxy(proxy, name, ax).set_xlabel(names[name])
        axes[0].set_ylabel("accuracy")
        text = (
            f"n = {len(proxy.trials)} trials, an even sample of the space's prior, evaluated on the searched split; "
            "95 % intervals by bootstrap over trials."
        )
        caption(figure, "Proxy and accuracy", text)
    return figure


def draw_confirmed(rows: pd.DataFrame, full: float | None, ax: Axes) -> Axes:
    """Draws the accuracies of one budget with intervals, the best on top; `full` is that without compression."""
    rows = rows.sort_values("accuracy", kind="stable")
    for height, (_, row) in enumerate(rows.iterrows()):
        colour = _colour(row)
        ax.plot([row["ci_low"], row["ci_high"]], [height, height], color=colour, lw=2)
        ax.plot(row["accuracy"], height, "o", color=colour, ms=6.5, mec="white")
    ax.set_yticks(range(len(rows)), [_named(row) for _, row in rows.iterrows()])
    for tick, (_, row) in zip(ax.get_yticklabels(), rows.iterrows(), strict=True):
        tick.set_color(_colour(row))
    if full is not None:
        ax.axvline(full, color=INK, linestyle=":", linewidth=1)
    ax.xaxis.set_major_formatter(_PERCENT)
    ax.set(title=f"{rows['keep'].iloc[0]} tokens", xlabel="accuracy")
    ax.grid(axis="x")
    ax.set_axisbelow(True)
    return ax


def confirmed_figure(table: pd.DataFrame) -> Figure:
    """Draws the accuracies on the confirming split, one panel per budget."""
    keeps = [keep for keep in table["keep"].unique() if table["scorer"][table["keep"] == keep].nunique() > 1]
    columns = 1 if len(keeps) == 1 else 2 if len(keeps) <= 4 else 3
    lines, full = math.ceil(len(keeps) / columns), table.loc[table["family"] == "full", "accuracy"]
    with house_style():
        figure = Figure(figsize=(2.0 + 5.5 * columns, 1.1 + lines * 3.8), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False, sharex=True)
        for ax in axes.flat[len(keeps) :]:
            ax.remove()
        for ax, keep in zip(axes.flat, keeps, strict=False):
            draw_confirmed(table[table["keep"] == keep], None if full.empty else float(full.iloc[0]), ax)
            ax.tick_params(labelbottom=True)
        n, images = table["n"].iloc[0], table["images"].iloc[0]
        text = (
            f"n = {n:,} questions about {images:,} images of the confirming split; 95 % intervals over images. Orange: "
            "found by the search; blue: baselines; grey: controls and oracle; dotted: no compression."
        )
        caption(figure, "Accuracy on the confirming split", text)
    return figure


def draw_front(front: Front, ax: Axes) -> Axes:
    """Draws the front on the searched split (line) and on the confirming split (points), trials and controls."""
    members, labels = front.members, []
    ax.scatter(front.tried["x"], front.tried["y"], s=14, color="#cfcfcf", label="other trials, searched split")
    steps = members.sort_values(["x", "y"])
    ax.plot(steps["x"], steps["y"], "o--", mfc="none", color=COLOURS["suffix"], lw=1.2, label="front, searched split")
    errors = np.clip([members["test_y"] - members["low"], members["high"] - members["test_y"]], 0, None)
    style = {"fmt": "o", "color": COLOURS["suffix"], "elinewidth": 2, "mec": "white", "ms": 7, "zorder": 4}
    ax.errorbar(members["test_x"], members["test_y"], errors, label="front, confirming split", **style)
    for name, rows in front.controls.groupby("scorer", sort=False):
        rows, colour = rows.sort_values("x"), COLOURS[str(name)]
        ax.fill_between(rows["x"], rows["low"], rows["high"], color=colour, alpha=0.18, lw=0)
        ax.plot(rows["x"], rows["y"], "s-", color=colour, lw=1.4, ms=4)
        labels.append(Label(rows["x"].iloc[-1], rows["y"].iloc[-1], str(name), colour))
    ax.set(xlabel=_UNITS[front.goals[0]], ylabel=_UNITS[front.goals[1]])
    ax.grid(axis="y")
    ax.set_axisbelow(True)
    if front.goals[1] == "accuracy":
        percent_axis(ax)
    shown = np.concatenate([members[["y", "low", "high"]].to_numpy().ravel(), front.controls["y"]])
    low, high = np.nanmin(shown), np.nanmax(shown)
    ax.set_ylim(low - 0.06 * max(high - low, 0.01), high + 0.06 * max(high - low, 0.01))
    label_lines(ax, labels)
    return ax


def front_figure(front: Front) -> Figure:
    """Draws the front with title and footnote."""
    with house_style():
        figure = Figure(figsize=(10, 5.8), layout="constrained")
        ax = figure.subplots()
        legend_above(figure, legend_of([draw_front(front, ax)]))
        below = int((front.tried["y"] < ax.get_ylim()[0]).sum())
        text = (
            f"n = {front.n:,} questions about {front.images:,} images of the confirming split; bars and bands: 95 % "
            "intervals over images. The front was chosen on the searched split, so its line is optimistic."
        )
        caption(figure, "Pareto front", text + (f" {below} other trials lie below the axis." if below else ""))
    return figure


def _history_note(history: pd.DataFrame) -> str:
    parts = []
    if history["stopped"].any():
        parts.append("Rings: stopped early, at an estimated value.")
    if not history["feasible"].all():
        parts.append("Crosses: infeasible, lose more accuracy than allowed.")
    return " ".join(parts) or "Every trial was evaluated in full."


def _mark(ax: Axes, layer: int) -> None:
    ax.axvspan(layer - 0.3, layer + 0.3, color="#f1f1f1", lw=0, zorder=0)


def _colour(row: pd.Series) -> Any:  # noqa: ANN401 (Matplotlib's many kinds of colour)
    return COLOURS["suffix" if row["family"] == "winner" else "single" if row["scorer"] in BASELINES else "random"]


def _named(row: pd.Series) -> str:
    return f"{row['scorer']} ({row['seeds']} seeds)" if row["seeds"] > 1 else str(row["scorer"])
