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
from scipy.stats import ttest_1samp

from analysis.answer import SIGNIFICANT
from analysis.comparison import methods_at, shared_budget
from analysis.drawing import COLOURS, INK, caption, house_style
from analysis.statistics import holm
from foveate.compression import Compressor, Identity
from foveate.evaluation import EvalConfig
from foveate.evaluation.latency import latency_ms
from foveate.evaluation.run import cached_load
from foveate.methods import METHODS
from foveate.settings import aligned, options_on, suited

QUESTIONS = 8  # that `latency_ms` asks


class Speed(NamedTuple):
    """Times of single questions.

    Attributes:
        table: A row per method and budget: method, budget, ms (median over the rounds), ratio (geometric mean over the
            rounds of this time over that without compression in the same round), low and high (its 95 % interval), and
            p_holm (of no difference, corrected over the table).
        full_ms: Without compression, median over the rounds.
        n: Questions.
        rounds: How often each was measured.
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
    """Of a comparison random patches, FastV, VTC-CLS, and the most accurate of all methods.

    Most accurate at the smallest budget that most methods can have. One's own have no name in `METHODS`: left out.

    Args:
        table: As `comparison_table` gives it.
    """
    known = [name for name in ("random", "fastv", "vtc_cls") if name in set(table["method"])]
    best = [name for name in methods_at(table, shared_budget(table))["method"] if name in METHODS and name not in known]
    return [*known, *best[:1]]


def budgets_to_time(table: pd.DataFrame, methods: Sequence[str]) -> dict[str, list[int]]:
    """Of every method its largest and its smallest budget in the table."""
    found = {name: sorted(set(table.loc[table["method"] == name, "budget"].astype(int))) for name in methods}
    return {name: sorted({some[0], some[-1]}, reverse=True) for name, some in found.items() if some}


def speed_data(config: EvalConfig, budgets: Mapping[str, Sequence[int]], rounds: int = 5) -> Speed:
    """Measures every method at its budgets, and no compression, `rounds` times, every other time backwards.

    Args:
        config: Model, data and place.
        budgets: Of every method, in equivalent tokens.
        rounds: A single one has no interval.
    """
    compressors = {None: Identity(), **_compressors(config, budgets)}
    times: dict[tuple[str, int] | None, list[float]] = {key: [] for key in compressors}
    for number in range(rounds):
        for key in list(compressors)[:: -1 if number % 2 else 1]:
            times[key].append(latency_ms(replace(config, compressor=compressors[key])))
    full = times.pop(None)
    rows = []
    for key, some in times.items():
        assert key is not None
        row = {"method": key[0], "budget": key[1], "ms": median(some)}
        rows.append(row | ratio_of(some, full))
    table = pd.DataFrame(rows)
    return Speed(table.assign(p_holm=holm(table["p_holm"])), median(full), config.limit or QUESTIONS, rounds)


def ratio_of(times: Sequence[float], full: Sequence[float]) -> dict[str, float]:
    """The geometric mean of paired ratios with its 95 % interval by Student's t of their logarithms.

    Rounds, not questions, are the unit: what else the machine does changes from round to round. The p value is not
    corrected yet; it and the interval are NaN for a single round.

    Args:
        times: One per round.
        full: The same without compression.
    """
    logs = np.log(np.divide(times, full))
    found = {"ratio": float(np.exp(logs.mean())), "low": np.nan, "high": np.nan, "p_holm": np.nan}
    if len(logs) < 2:
        return found
    test: Any = ttest_1samp(logs, 0)
    low, high = np.exp(test.confidence_interval(0.95))
    return found | {"low": float(low), "high": float(high), "p_holm": float(test.pvalue)}


def draw_speed(data: Speed, colours: Mapping[str, Any], ax: Axes) -> Axes:
    """Time over that without compression, with its interval; right of the line compression is slower.

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
    ends = rows[["ratio", "low", "high"]]
    ax.set_xlim(min(0.95, np.nanmin(ends) - 0.05), max(1.05, np.nanmax(ends) + 0.05))
    ax.grid(axis="x", linewidth=0.8)
    ax.set_axisbelow(True)
    return ax


def speed_figure(data: Speed, colours: Mapping[str, Any]) -> Figure:
    """The times with title and caption."""
    with house_style():
        figure = Figure(figsize=(10.8, 1.7 + 0.36 * len(data.table)), layout="constrained")
        draw_speed(data, colours, figure.subplots())
        note = (
            f"n = {data.n} questions, each asked alone, prefill and decoding; {data.rounds} rounds; bars: 95 % "
            "intervals over rounds. Right of the dashed line compression costs more time than it saves. Without the "
            "vision tower, which is replayed, but with what a method computes to choose."
        )
        caption(figure, "What compression does to the time of a question", note)
    return figure


def speed_answer(data: Speed) -> str:
    """Which methods are surely slower and which faster, in words; times of this machine are left out."""
    slower, faster, level = "slower than no compression", "faster", "not to be told from it"
    sides: dict[str, list[str]] = {slower: [], faster: [], level: []}
    for _, row in data.table.iterrows():
        sure = row["p_holm"] < SIGNIFICANT  # not where it is NaN
        interval = "" if np.isnan(row["low"]) else f" [{row['low']:.2f}, {row['high']:.2f}]"
        side = level if not sure else slower if row["ratio"] > 1 else faster
        sides[side].append(f"{row['method']} at {row['budget']} tokens ({row['ratio']:.2f} x{interval})")
    counts = ", ".join(f"{len(found)} are {side}" for side, found in sides.items())
    told = "; ".join(f"{side}: {', '.join(found)}" for side, found in sides.items() if found)
    few = " A single round tells nothing apart." if data.rounds < 2 else ""
    return (
        f"Of {len(data.table)} settings (n = {data.n} questions asked alone, {data.rounds} rounds), {counts}.{few} In "
        f"detail, {told}. Ratios are times over the time without compression; brackets hold 95 % intervals over "
        "rounds, p Holm-corrected. On another machine, with another model or longer prompts they are others."
    )


def _compressors(config: EvalConfig, budgets: Mapping[str, Sequence[int]]) -> dict[tuple[str, int], Compressor]:
    """Set as in a comparison, so that the mean over the language model's blocks is the budget."""
    llava = cached_load(config.model, config.device, config.dtype).adapter
    patches, depth = llava.tower.grid.patches, llava.decoder.depth
    found = {}
    for name, some in budgets.items():
        recipe = METHODS[name]  # names may come from a table, which must not have anything imported
        options = options_on(recipe, llava)
        for budget in some:
            found[name, budget] = suited(aligned(recipe, budget, patches, depth, **options), llava.tower)
    return found
