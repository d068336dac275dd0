"""How long a question takes with a few methods, as multiples of the time without compression, measured on the spot."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.comparison import methods_at, shared_budget
from analysis.drawing import COLOURS, INK, caption, house_style
from foveate.compression import Compressor, Identity
from foveate.evaluation import EvalConfig
from foveate.evaluation.latency import latency_ms
from foveate.evaluation.run import cached_load
from foveate.methods import METHODS
from foveate.settings import aligned, method, options_for

QUESTIONS = 8  # that `latency_ms` asks


class Speed(NamedTuple):
    """Times of single questions.

    Attributes:
        table: A row per method and budget: method, budget, ms (median over the rounds), ratio, low and high (median,
            least and greatest over the rounds of this round's time over that without compression).
        full_ms: Without compression, median over the rounds.
        n: Questions.
        rounds: How often each was measured, the methods in turn.
    """

    table: pd.DataFrame
    full_ms: float
    n: int
    rounds: int


def config_of(study: optuna.Study, out: Path, device: str = "cpu") -> EvalConfig:
    """A study's model and data without compression, with no more questions than are timed.

    Args:
        study: A comparison or an ablation.
        out: Folder of all results; encodings are kept there.
        device: Where the model runs.
    """
    known = study.user_attrs["identity"]
    model = {"model": study.user_attrs["model"], "dtype": known["dtype"], "max_new_tokens": known["max_new_tokens"]}
    data = {"data": known["data"], "split": known["split"], "seed": known["seed"]}
    limit = min(QUESTIONS, known["limit"] or QUESTIONS)
    return EvalConfig(Identity(), limit=limit, device=device, out=out, **model, **data)


def timed_methods(table: pd.DataFrame) -> list[str]:
    """Of a comparison random patches, FastV, VTC-CLS, and the best that drops before, inside, and before and inside.

    Best is the most accurate one at the smallest budget that most methods can have, or else at any. One's own methods
    have no name in `METHODS` and are left out.

    Args:
        table: As `comparison_table` gives it.
    """
    chosen = [name for name in ("random", "fastv", "vtc_cls") if name in set(table["method"])]
    for role in ("vision", "decoder", "both"):
        rows = methods_at(table, shared_budget(table), (role,))
        if rows.empty:
            rows = table[table["role"] == role].sort_values("accuracy", ascending=False, kind="stable")
        chosen += [name for name in rows["method"] if name in METHODS][:1]
    return list(dict.fromkeys(chosen))


def budgets_to_time(table: pd.DataFrame, methods: Sequence[str]) -> dict[str, list[int]]:
    """Of every method its largest and its smallest budget in the table."""
    found = {name: sorted(set(table.loc[table["method"] == name, "budget"].astype(int))) for name in methods}
    return {name: sorted({some[0], some[-1]}, reverse=True) for name, some in found.items() if some}


def speed_data(config: EvalConfig, budgets: Mapping[str, Sequence[int]], rounds: int = 2) -> Speed:
    """Measures every method at its budgets and the model without compression, in turn, `rounds` times.

    Args:
        config: Model, data and place.
        budgets: Of every method, in equivalent tokens.
        rounds: What is the same in all of them is no chance of the moment.
    """
    compressors = _compressors(config, budgets)
    full, times = [], {key: [] for key in compressors}
    for _ in range(rounds):
        full.append(latency_ms(replace(config, compressor=Identity())))
        for key, compressor in compressors.items():
            times[key].append(latency_ms(replace(config, compressor=compressor)))
    rows = []
    for (name, budget), some in times.items():
        ratios = np.divide(some, full)
        row = {"method": name, "budget": budget, "ms": median(some), "ratio": float(np.median(ratios))}
        rows.append(row | {"low": float(ratios.min()), "high": float(ratios.max())})
    return Speed(pd.DataFrame(rows), median(full), config.limit or QUESTIONS, rounds)


def draw_speed(data: Speed, colours: Mapping[str, Any], ax: Axes) -> Axes:
    """Time over that without compression, with the range over the rounds; right of the line compression is slower.

    Args:
        data: As `speed_data` gives it.
        colours: Of the methods; those without one are grey.
        ax: Where to draw.
    """
    rows = data.table.iloc[::-1].reset_index(drop=True)
    for height, (_, row) in enumerate(rows.iterrows()):
        colour = colours.get(row["method"], COLOURS["random"])
        ax.plot([row["low"], row["high"]], [height, height], color=colour, lw=2.5, solid_capstyle="butt")
        ax.plot(row["ratio"], height, "o", color=colour, ms=7, mec="white")
    ax.axvline(1, color=INK, ls="--", lw=1.2, zorder=1)
    ax.set_yticks(range(len(rows)), [f"{row['method']}, {row['budget']} tokens" for _, row in rows.iterrows()])
    for tick, name in zip(ax.get_yticklabels(), rows["method"], strict=True):
        tick.set_color(colours.get(name, COLOURS["random"]))
    ax.set(xlabel="time of a question, times that without compression", ylim=(-0.6, len(rows) - 0.4))
    ax.set_xlim(min(0.95, rows["low"].min() - 0.05), max(1.05, rows["high"].max() + 0.05))
    ax.grid(axis="x", linewidth=0.8)
    ax.set_axisbelow(True)
    return ax


def speed_figure(data: Speed, colours: Mapping[str, Any]) -> Figure:
    """The times with title and caption."""
    with house_style():
        figure = Figure(figsize=(10.8, 1.7 + 0.36 * len(data.table)), layout="constrained")
        draw_speed(data, colours, figure.subplots())
        note = (
            f"n = {data.n} questions, each asked alone, prefill and decoding, median; {data.rounds} rounds, bars from "
            "the fastest to the slowest. Right of the dashed line compression costs more time than it saves. Without "
            "the vision tower, which is replayed, but with what a method computes to choose."
        )
        caption(figure, "What compression does to the time of a question", note)
    return figure


def speed_answer(data: Speed) -> str:
    """Which methods are slower and which are faster in every round, in words; times of this machine are left out."""
    slower, faster, level = "slower than no compression", "faster", "not to be told from it"
    sides: dict[str, list[str]] = {slower: [], faster: [], level: []}
    for _, row in data.table.iterrows():
        side = slower if row["low"] > 1 else faster if row["high"] < 1 else level
        sides[side].append(f"{row['method']} at {row['budget']} tokens ({row['ratio']:.2f} x)")
    counts = ", ".join(f"{len(found)} {side}" for side, found in sides.items())
    told = "; ".join(f"{side}: {', '.join(found)}" for side, found in sides.items() if found)
    return (
        f"Of {len(data.table)} settings, in every one of {data.rounds} rounds over n = {data.n} questions asked alone, "
        f"{counts}. In detail, {told}. Ratios are times over the time without compression, medians over the rounds; on "
        "another machine, with another model or longer prompts they are others."
    )


def _compressors(config: EvalConfig, budgets: Mapping[str, Sequence[int]]) -> dict[tuple[str, int], Compressor]:
    """Set as in a comparison, so that the mean over the language model's blocks is the budget."""
    llava = cached_load(config.model, config.device, config.dtype).adapter
    patches, depth = llava.tower.grid.patches, llava.decoder.depth
    found = {}
    for name, some in budgets.items():
        recipe = method(name)
        options = options_for(recipe, llava.tower.depth, depth)
        for budget in some:
            found[name, budget] = aligned(recipe, budget, patches, depth, **options)
    return found
