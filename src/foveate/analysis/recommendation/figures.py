"""Figure of a recommendation: loss by equivalent tokens, in the race and in the confirmation."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from foveate.analysis.drawing import COLOURS, FAINT, INK, RIGHT, WRONG, caption, house_style, legend_above, legend_of

_SHOWN = 3.0  # times the accepted loss, above which a loss is drawn at the edge


def draw_frontier(race: pd.DataFrame, confirmation: pd.DataFrame, max_loss: float, ax: Axes) -> None:
    """Draws the loss of every setting in the race, and of the confirmed ones with their intervals.

    Args:
        race: Table of `race_table`.
        confirmation: Table of `confirmation_table`; it may be empty.
        max_loss: Loss that is still accepted.
        ax: The axes.
    """
    top = max(_SHOWN * max_loss, 1.2 * float(confirmation["high"].max()) if len(confirmation) else 0.0)
    for label, rows, look in (
        ("left the race", race[race["left"] != ""], {"facecolors": "none", "edgecolors": FAINT}),
        ("finished the race", race[race["left"] == ""], {"color": COLOURS["single"]}),
    ):
        ax.scatter(rows["tokens"], rows["loss"].clip(upper=top), s=26, label=label, **look)  # type: ignore[arg-type]
    for passed, colour, label in ((True, RIGHT, "confirmed"), (False, WRONG, "not confirmed")):
        rows = confirmation[confirmation["passed"] == passed] if len(confirmation) else confirmation
        if len(rows):
            ends = [rows["loss"] - rows["low"], rows["high"] - rows["loss"]]
            ax.errorbar(rows["tokens"], rows["loss"], ends, fmt="D", ms=7, lw=2, color=colour, label=label, zorder=4)
            for _, row in rows.iterrows():
                place = {"textcoords": "offset points", "ha": "right", "va": "center", "color": colour}
                ax.annotate(row["method"], (row["tokens"], row["loss"]), (-9, 0), **place)  # type: ignore[arg-type]
    ax.axhline(max_loss, color=INK, lw=1, ls="--")
    ax.axhline(0, color=FAINT, lw=0.8)
    ax.set_ylim(bottom=min(-0.5 * max_loss, 1.1 * float(race["loss"].min())), top=1.08 * top)
    ax.set_xlabel("equivalent visual tokens")
    ax.set_ylabel("points of accuracy lost")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))


def frontier_figure(race: pd.DataFrame, confirmation: pd.DataFrame, max_loss: float, source: str) -> Figure:
    """Returns the figure with its caption.

    Args:
        race: Table of `race_table`.
        confirmation: Table of `confirmation_table`.
        max_loss: Loss that is still accepted.
        source: Model and data, for the caption.
    """
    size = "none"
    if len(confirmation):
        size = f"{confirmation['n'].iloc[0]:,} questions about {confirmation['images'].iloc[0]:,} images"
    text = (
        f"Each point is a method at a budget; losses far above the accepted one (dashed) stand at the upper edge. "
        f"Diamonds: {size}, which the race did not see, with 95 % intervals over images. {source}"
    )
    with house_style():
        figure = Figure(figsize=(10, 6), layout="constrained")
        ax = figure.subplots()
        draw_frontier(race, confirmation, max_loss, ax)
        legend_above(figure, legend_of([ax]), columns=2)
        caption(figure, f"Settings that lose at most {100 * max_loss:g} points", text)
    return figure
