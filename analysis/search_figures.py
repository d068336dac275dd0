"""Figures of a search: its course, what mattered, its weights, what its first rung was worth, the test."""

import numpy as np
import optuna
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.drawing import COLOURS, FAINT, INK, caption, house_style, percent_axis
from analysis.search import Importance, Proxy, trials_table

_SOURCES = {
    "default": ("published default", COLOURS["evidence"]),
    "ensemble": ("uniform ensemble", COLOURS["all"]),
    "single": ("single layer", COLOURS["single"]),
    "spaced": ("even sample of the prior", FAINT),
    "proxy": ("best of the first rung", COLOURS["uniform"]),
    "sampler": ("sampler", COLOURS["suffix"]),
}
_UNITS = {
    "quality": "mean log-probability of the reference",
    "accuracy": "accuracy",
    "tokens": "equivalent tokens",
    "latency": "ms per question",
}
_WHO = {
    "among the ten best": (FAINT, 0.8, "o"),
    "uniform ensemble": (COLOURS["all"], 1.6, "s"),
    "published default": (COLOURS["evidence"], 1.6, "D"),
    "winner": (COLOURS["suffix"], 2.6, "o"),
}


def history_figure(study: optuna.Study) -> Figure:
    """Value of every trial in the order of their numbers, and the best so far; rings were stopped early."""
    goal, minimised = study.user_attrs["goals"][0], study.directions[0].name == "MINIMIZE"
    table = trials_table(study)
    values = table[f"value_{goal}"].to_numpy()
    with house_style():
        figure, ax = _figure(11, 4.6)
        for source, (name, colour) in _SOURCES.items():
            chosen = (table["source"] == source).to_numpy()
            early = table["stopped"].astype(bool).to_numpy()
            ax.scatter(table["number"][chosen & ~early], values[chosen & ~early], s=26, color=colour, label=name)
            ax.scatter(
                table["number"][chosen & early], values[chosen & early], s=26, facecolors="none", edgecolors=colour
            )
        best = np.minimum.accumulate(values) if minimised else np.maximum.accumulate(values)
        ax.step(table["number"], best, where="post", color=INK, linewidth=1, label="best so far")
        ax.set(xlabel="trial", ylabel=_UNITS[goal])
        ax.grid(axis="y")
        ax.legend(frameon=False, fontsize=10, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        caption(figure, "The course of the search", "Rings: stopped early, at the value that they would have had.")
    return figure


def importance_figure(importances: list[Importance]) -> Figure:
    """Bars, one panel per goal."""
    longest = max(len(one.shares) for one in importances)
    with house_style():
        figure = Figure(figsize=(5.5 * len(importances) + 1.5, 1.6 + 0.36 * max(longest, 3)), layout="constrained")
        for ax, one in zip(figure.subplots(1, len(importances), squeeze=False)[0], importances, strict=True):
            names = list(one.shares)[::-1]
            ax.barh(names, [one.shares[name] for name in names], color=COLOURS["single"])
            ax.set(xlabel="share of importance", title=f"for {one.goal}, {one.trials} trials", xlim=(0, 1))
            if not names:
                ax.text(0.5, 0.5, "the trials do not tell", ha="center", transform=ax.transAxes, color=FAINT)
        caption(
            figure,
            "What mattered",
            "PED-ANOVA over all complete trials; a dimension that only some trials have is judged on those.",
        )
    return figure


def weights_figure(weights: pd.DataFrame, feature_layer: int) -> Figure:
    """Weight per layer."""
    with house_style():
        figure, ax = _figure(8, 4.6)
        for who, (colour, width, marker) in _WHO.items():
            for number, (_, line) in enumerate(weights[weights["who"] == who].groupby("trial")):
                label = who if number == 0 else None
                ax.plot(line["layer"], line["weight"], marker, ls="-", color=colour, lw=width, ms=5, label=label)
        ax.axvline(feature_layer, color=FAINT, linestyle=":", linewidth=1)
        ax.text(feature_layer, ax.get_ylim()[1], " features", color=FAINT, va="top", fontsize=10)
        ax.set(xlabel="layer of the vision tower", xticks=sorted(weights["layer"].unique()), ylim=(0, None))
        percent_axis(ax)
        ax.set_ylabel("weight")
        ax.legend(frameon=False, fontsize=10)
        caption(
            figure,
            "Which layers the search trusts",
            "Weights sum to 1. Thin: the ten best trials evaluated in full.",
        )
    return figure


def proxy_figure(proxy: Proxy, signal: str) -> Figure:
    """Agreement of the first rung against accuracy."""
    title = f"rank correlation {proxy.rho:.2f} [{proxy.low:.2f}, {proxy.high:.2f}], {len(proxy.trials)} trials"
    with house_style():
        figure, ax = _figure(6.5, 4.6)
        ax.scatter(proxy.trials["agreement"], proxy.trials["accuracy"], color=COLOURS["single"], s=30)
        percent_axis(ax)
        ax.set(xlabel=f"agreement with {signal}", ylabel="accuracy", title=title)
        text = "An even sample of the space's prior, evaluated in full; 95 % interval by bootstrap over trials."
        caption(figure, "Does the first rung foretell accuracy?", text)
    return figure


def confirmed_figure(table: pd.DataFrame) -> Figure:
    """Accuracy on the confirming split with intervals; one panel per budget."""
    keeps = [keep for keep in table["keep"].unique() if table["scorer"][table["keep"] == keep].nunique() > 1]
    with house_style():
        figure = Figure(figsize=(7.5, 0.6 + len(keeps) * 3.4), layout="constrained")
        full = table.loc[table["family"] == "full", "accuracy"]
        for ax, keep in zip(figure.subplots(len(keeps), 1, squeeze=False)[:, 0], keeps, strict=True):
            rows = table[table["keep"] == keep].sort_values("accuracy")
            colours = [COLOURS["suffix"] if family == "winner" else FAINT for family in rows["family"]]
            ax.hlines(rows["scorer"], rows["ci_low"], rows["ci_high"], colors=colours, linewidth=2)
            ax.scatter(rows["accuracy"], rows["scorer"], c=colours, s=36, zorder=3)
            for value in full:
                ax.axvline(value, color=INK, linestyle=":", linewidth=1)
            ax.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
            ax.set(title=f"{keep} tokens", xlabel="accuracy")
            ax.grid(axis="x")
        n, images = table["n"].iloc[0], table["images"].iloc[0]
        text = (
            f"n = {n:,} questions about {images:,} images that the search never saw; 95 % intervals by bootstrap over "
            "images. Dotted: no compression."
        )
        caption(figure, "The winner on unseen questions", text)
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()
