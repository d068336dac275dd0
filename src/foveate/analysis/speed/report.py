"""Report of timed rounds: table and figure in one folder."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from foveate.analysis.drawing import save_figure
from foveate.analysis.speed.data import FULL, ONE_BY_ONE, Conditions, groups_of, read_rounds, speed_table
from foveate.analysis.speed.figures import speed_figure
from foveate.analysis.tables import grid, write_table
from foveate.profiling.flops import CONVENTIONS
from foveate.profiling.speed import PARTS

ROUNDS = "rounds.parquet"
_LEGEND = (
    "{model} on {device} ({threads} threads), attention kernel {kernel}, {dtype}, {versions}, {date}. n = {rounds} "
    "rounds, in which all settings take turns after a warm-up; brackets hold quartiles of the total and 95 % t "
    "intervals of ratios over rounds. Verdicts rest on p < 0.05 in a t test of the logarithms, Holm-corrected over the "
    "table."
)
_COLUMNS = """\
- times: ms per question, medians over rounds; *per token*: decoding
- *vision*: the vision tower, with the attention rows that a method records in its pass
- *scoring*: choosing and merging, also inside the language model
- *prefill*: up to the first of {new_tokens} tokens
- *peak*: largest memory of the batch above the weights; *KV*: key-value cache of a prompt
- *speedup*: geometric mean of the time without compression, with the same kernel, over this time
- *vs one by one*: the same against a baseline of stock transformers calls, one question at a time with eager attention
  and `output_attentions`; both times include making tensors of images and words"""


def report(folder: Path) -> str:
    """Writes table.csv, table.md and speed.png beside the rounds in a folder; returns the text to print.

    Raises:
        DataError: There are no rounds.
    """
    rounds, conditions = read_rounds(folder / ROUNDS)
    table = speed_table(rounds)
    write_table(table, folder, markdown(table, conditions))
    save_figure(speed_figure(table, conditions), folder / "speed.png")
    sections = [f"{setting.title}\n\n{_grid(rows, _cells)}" for setting, rows in groups_of(table)]
    return "\n\n".join([_legend(table, conditions), *sections, *_left_out(conditions), f"Tables and figure: {folder}"])


def markdown(table: pd.DataFrame, conditions: Conditions) -> str:
    """Returns one Markdown table per setting, operations by every convention, and what was not measured."""
    parts = [_legend(table, conditions), _COLUMNS.format(new_tokens=conditions.new_tokens)]
    for setting, rows in groups_of(table):
        parts += [f"## {setting.title}", _grid(rows, _cells)]
    parts += ["## Operations of a prefill by convention, in units of 10^9", _conventions()]
    for setting, rows in groups_of(table.drop_duplicates(["size", "frames", "method", "budget"])):
        parts += [f"### {setting.title.partition(',')[0]}", _grid(rows, _operations)]
    return "\n\n".join([*parts, *_left_out(conditions)]) + "\n"


def _legend(table: pd.DataFrame, conditions: Conditions) -> str:
    return _LEGEND.format(**conditions._asdict(), rounds=table["rounds"].max())


def _cells(row: pd.Series) -> dict[str, str]:
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
        "speedup": _ratio(row, "speedup", "low", "high"),
        "verdict": str(row["verdict"]),
        "vs one by one": _ratio(row, "vs_one_by_one", "vs_low", "vs_high"),
    }


def _operations(row: pd.Series) -> dict[str, str]:
    setting = str(row["method"]) if row["method"] == FULL else f"{row['method']}, {row['budget']} tokens"
    return {"setting": setting, **{name: _number(row[f"gflops_{name}"], ".4g") for name in CONVENTIONS}}


def _conventions() -> str:
    return "\n".join(f"- {name}: {convention}" for name, convention in CONVENTIONS.items())


def _grid(rows: pd.DataFrame, cells: Callable[[pd.Series], dict[str, str]]) -> str:
    if cells is _operations:
        rows = rows[rows["method"] != ONE_BY_ONE]
    return grid([cells(row) for _, row in rows.iterrows()])


def _left_out(conditions: Conditions) -> list[str]:
    parts = []
    if conditions.left_out:
        reasons = "\n".join(f"- {setting}: {why}" for setting, why in conditions.left_out.items())
        parts += ["## Not measured", reasons]
    if conditions.no_one_by_one:
        parts.append(f"No baseline one by one: {conditions.no_one_by_one}.")
    return parts


def _ratio(row: pd.Series, name: str, low: str, high: str) -> str:
    if pd.isna(row[name]):
        return "-"
    return f"{row[name]:.2f}" + ("" if pd.isna(row[low]) else f" [{row[low]:.2f}, {row[high]:.2f}]")


def _number(value: float, form: str) -> str:
    return "-" if pd.isna(value) else format(value, form)
