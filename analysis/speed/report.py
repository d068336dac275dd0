"""Everything that timed rounds show: files, a table for readers, and an answer in plain words."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from analysis.drawing import save_figure
from analysis.speed.data import (
    FASTER,
    FULL,
    LEVEL,
    ONE_BY_ONE,
    SLOWER,
    Conditions,
    groups_of,
    read_rounds,
    side_of,
    speed_table,
    times,
)
from analysis.speed.figures import speed_figure
from analysis.tables import grid, write_table
from foveate.profiling.flops import CONVENTIONS
from foveate.profiling.speed import PARTS

ROUNDS = "rounds.parquet"
_LEGEND = (
    "{model} on {device} ({threads} threads), attention kernel {kernel}, {dtype}, {versions}, {date}. Medians over "
    "{rounds} rounds in which all settings take turns, after a warm-up; ms per question, decoding per token; in "
    "brackets quartiles of the total, and 95 % intervals of ratios. *Vision* is the tower, with recording the rows of "
    "attention that a method needs inside its pass; *scoring* is choosing and merging, also inside the language model; "
    "*prefill* ends with the first of {new_tokens} tokens, whatever they are. *Times as fast*: geometric mean over "
    "rounds of the time of the uncompressed model, with the same kernel, over this one's; verdicts are Holm-corrected "
    "over the table. *Times as fast as one by one*: the way scripts of this field do it, from stock transformers "
    "calls: one question at a time, eager attention, `output_attentions`; with the time to make tensors of images "
    "and words on both sides. *Peak*: most memory of the batch above weights. *KV*: keys and values of a prompt."
)


def report(folder: Path) -> str:
    """Writes table.csv, table.md and speed.png beside the rounds in a folder; returns what to print.

    Raises:
        DataError: There are no rounds.
    """
    rounds, conditions = read_rounds(folder / ROUNDS)
    table = speed_table(rounds)
    write_table(table, folder, markdown(table, conditions))
    save_figure(speed_figure(table, conditions), folder / "speed.png")
    sections = [f"{_title(*key)}\n\n{_grid(rows, _shown)}" for key, rows in groups_of(table)]
    answer = [*sections, *_left_out(conditions), speed_answer(table, conditions)]
    return "\n\n".join([*answer, f"Tables and figure: {folder}"])


def markdown(table: pd.DataFrame, conditions: Conditions) -> str:
    """The table for readers: a section per size and batch, operations by every convention, what was left out."""
    told = conditions._asdict() | {"rounds": table["rounds"].max()}
    parts = [_LEGEND.format(**told)]
    for key, rows in groups_of(table):
        parts += [f"## {_title(*key)}", _grid(rows, _shown)]
    parts += ["## Operations of a prefill by convention, in units of 10^9", _conventions()]
    for size, rows in table.groupby("size", sort=False):
        parts += [f"### Images of {size} pixels", _grid(rows.drop_duplicates(["method", "budget"]), _operations)]
    return "\n\n".join([*parts, *_left_out(conditions)]) + "\n"


def speed_answer(table: pd.DataFrame, conditions: Conditions) -> str:
    """Where compression pays on this model and machine, and where it does not, in plain words."""
    parts = [_told(key, rows, conditions.new_tokens) for key, rows in groups_of(table)]
    rounds = int(table["rounds"].max())
    few = " A single round tells nothing apart." if rounds < 2 else ""
    return "\n\n".join(
        [
            *parts,
            f"{conditions.model} on {conditions.device}, n = {rounds} rounds, {conditions.kernel}, {conditions.dtype}; "
            f"brackets hold 95 % intervals over rounds, p Holm-corrected.{few} On another machine, with another model "
            "or longer prompts the numbers are others.",
        ]
    )


def _told(key: tuple[int, int], rows: pd.DataFrame, new_tokens: int) -> str:
    methods = rows[~rows["method"].isin((FULL, ONE_BY_ONE))]
    sides = {side: methods[methods.apply(side_of, axis=1) == side] for side in (FASTER, SLOWER, LEVEL)}
    count = len(methods)
    pays = f"compression pays in {len(sides[FASTER]) or 'none'} of {count} settings"
    full = rows[rows["method"] == FULL].iloc[0]
    lines = [f"{_title(*key)}: {pays if count else 'nothing was compressed'}. {_shares(full, new_tokens)}"]
    for side, found in sides.items():
        if len(found):
            listed = "; ".join(_setting(row, full if side != FASTER else None) for _, row in found.iterrows())
            lines.append(f"{side.capitalize()}: {listed}.")
    second = rows[rows["method"] == ONE_BY_ONE]
    if len(second) and len(methods):
        best = methods.sort_values("vs_one_by_one").iloc[-1]
        ends = _ends(best, "vs_low", "vs_high")
        lines.append(
            f"Against one by one with as many tokens: up to {times(best['vs_one_by_one'])}{ends} as fast "
            f"({best['method']} at {best['budget']} tokens), without compression {times(full['vs_one_by_one'])}"
            f"{_ends(full, 'vs_low', 'vs_high')}."
        )
    return "\n  ".join(lines)


def _shares(full: pd.Series, new_tokens: int) -> str:
    """Where the time goes without compression, and so what there is to save."""
    decode = full["decode_ms"] * (new_tokens - 1)
    spent = {"the vision tower": full["vision_ms"], "prefill": full["prefill_ms"], "decoding": decode}
    listed = ", ".join(f"{name} {ms / full['total_ms']:.0%}" for name, ms in spent.items())
    return f"Of the time without compression {listed}.".replace("%", " %")


def _setting(row: pd.Series, full: pd.Series | None) -> str:
    """One setting, and where it does not pay, what it saves and costs."""
    text = f"{row['method']} at {row['budget']} tokens ({times(row['speedup'])}{_ends(row, 'low', 'high')}"
    if full is None:
        return f"{text})"
    saved = full["prefill_ms"] - row["prefill_ms"]
    prefill = f"{abs(saved):.2f} ms {'less' if saved > 0 else 'more'} prefill"
    return f"{text}: {prefill}, {row['scoring_ms']:.2f} ms to choose)"


def _shown(row: pd.Series) -> dict[str, str]:
    names = {"decode": "per token"}
    plain = row["method"] not in (FULL, ONE_BY_ONE)
    return {
        "method": f"{row['method']}, {row['budget']} tokens" if row["method"] == ONE_BY_ONE else str(row["method"]),
        "tokens": _number(row["equivalent_tokens"], ".1f"),
        "GFLOPs": _number(row["gflops_foveate"], ".3g"),
        **{names.get(part, part): _number(row[f"{part}_ms"], ".2f") for part in PARTS},
        "total": f"{row['total_ms']:.2f} [{row['total_q25_ms']:.2f}, {row['total_q75_ms']:.2f}]",
        "peak MiB": "not known" if pd.isna(row["peak_bytes"]) and plain else _number(row["peak_bytes"] / 2**20, ".1f"),
        "KV KiB": _number(row["kv_bytes"] / 2**10, ".0f"),
        "times as fast": _ratio(row, "speedup", "low", "high"),
        "verdict": str(row["verdict"]),
        "times as fast as one by one": _ratio(row, "vs_one_by_one", "vs_low", "vs_high"),
    }


def _operations(row: pd.Series) -> dict[str, str]:
    setting = str(row["method"]) if row["method"] == FULL else f"{row['method']}, {row['budget']} tokens"
    return {"setting": setting, **{name: _number(row[f"gflops_{name}"], ".4g") for name in CONVENTIONS}}


def _conventions() -> str:
    return "\n".join(f"- {name}: {convention}" for name, convention in CONVENTIONS.items())


def _grid(rows: pd.DataFrame, shown: Callable[[pd.Series], dict[str, str]]) -> str:
    if shown is _operations:
        rows = rows[rows["method"] != ONE_BY_ONE]
    return grid([shown(row) for _, row in rows.iterrows()])


def _left_out(conditions: Conditions) -> list[str]:
    parts = []
    if conditions.left_out:
        reasons = "\n".join(f"- {setting}: {why}" for setting, why in conditions.left_out.items())
        parts += ["## Not measured", reasons]
    if conditions.no_one_by_one:
        parts.append(f"No second baseline (one by one): {conditions.no_one_by_one}.")
    return parts


def _title(size: int, batch: int) -> str:
    return f"Images of {size} pixels, batch {batch}"


def _ratio(row: pd.Series, name: str, low: str, high: str) -> str:
    return "-" if pd.isna(row[name]) else f"{row[name]:.2f}{_ends(row, low, high)}"


def _ends(row: pd.Series, low: str, high: str) -> str:
    return "" if pd.isna(row[low]) else f" [{row[low]:.2f}, {row[high]:.2f}]"


def _number(value: float, form: str) -> str:
    return "-" if pd.isna(value) else format(value, form)
