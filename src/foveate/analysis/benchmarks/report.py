"""Report of a reproduction of the VTC-CLS paper: tables in one folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from foveate.analysis.benchmarks.data import Reproduced, averages_table, gaps_table, read_run, reproduction_table
from foveate.analysis.benchmarks.paper import CHECKPOINT, MODEL, PAPER
from foveate.analysis.records import failure_note
from foveate.analysis.tables import grid, p_value, paragraphs, write_csv, write_text
from foveate.core.documents import BENCHMARKS, page

_LEGEND = (
    f"Numbers of {{model}} beside those of {PAPER} (arXiv 2412.05819) for {MODEL}, in %, with 95 % intervals over "
    "images. A number is the *same* if it differs from the published one by at most {tolerance:g} points."
)
_AVERAGES = (
    "Means over the benchmarks that were run, without MM-Vet, on both sides; *retained*: mean ratio to the "
    "uncompressed model; *printed*: the paper's average over all eight benchmarks."
)
_GAPS = (
    "Gaps in points, paired by question. Verdicts rest on p < 0.05 in a permutation test over images, Holm-corrected "
    "over the table: *confirmed* with the published sign, *contrary* with the opposite one."
)


def requirements(model: str, data: Sequence[str]) -> str:
    """Returns the weights and data that the reproduction needs, for the error message."""
    return (
        f"To reproduce the table: the weights of {model} (`hf download {CHECKPOINT}`, 14 GB; a GPU with 24 GB: "
        f"--device cuda --dtype float16) and the data of {', '.join(data)} ({page(BENCHMARKS)} has their hub "
        "ids; --data pope:FILE reads a local copy). Parts can be run separately: --model, --data, --keep"
    )


def report(runs: Sequence[Reproduced], model: str, folder: Path, tolerance: float, whole: bool) -> str:
    """Writes `table.csv`, `averages.csv`, `gaps.csv` and `table.md`; returns the text to print.

    Args:
        runs: Runs of the paper's grid.
        model: Name of the model.
        folder: Folder to write to.
        tolerance: Largest difference in points of equal numbers.
        whole: Whether all questions of every benchmark were asked.
    """
    results = [read_run(run) for run in runs]
    tables = {
        "averages": averages_table(results, tolerance, whole),
        "gaps": gaps_table(results),
        "table": reproduction_table(results, tolerance, whole),
    }
    for name, table in tables.items():
        write_csv(table, folder / f"{name}.csv")
    text = markdown(tables, model, tolerance, whole)
    write_text(text + "\n", folder / "table.md")
    failed = {run.data: failure_note(run.records) for run in runs}
    failures = [f"{data}: {note}" for data, note in failed.items() if note]
    return paragraphs(text, *failures, f"Tables: {folder}")


def markdown(tables: Mapping[str, pd.DataFrame], model: str, tolerance: float, whole: bool) -> str:
    """Returns averages, gaps between methods and single numbers as Markdown tables.

    Args:
        tables: "averages", "gaps" and "table", as `foveate.analysis.benchmarks.data` makes them.
        model: Name of the model.
        tolerance: Largest difference in points of equal numbers.
        whole: Whether all questions of every benchmark were asked.
    """
    parts = [_LEGEND.format(model=model, tolerance=tolerance)]
    if not whole:
        parts.append("Only a part of the questions was asked (--limit), so no number is compared with the paper's.")
    averages, gaps, numbers = (tables[name] for name in ("averages", "gaps", "table"))
    if not averages.empty:
        rows = [_average(row) for _, row in averages.iterrows()]
        parts += ["## Averages and share retained", _AVERAGES, grid(rows)]
    if not gaps.empty:
        parts += ["## Gaps between methods", _GAPS, grid([_gap(row) for _, row in gaps.iterrows()])]
    parts += ["## Numbers", grid([_number(row) for _, row in numbers.iterrows()])]
    return "\n\n".join(parts)


def _average(row: pd.Series) -> dict[str, str]:
    return {
        "method": row["method"],
        "kept": str(row["kept"]),
        "benchmarks": str(row["benchmarks"]),
        **compared(row),
        "retained, %": _interval(row["retained"], row["retained low"], row["retained high"]),
        "published retained, %": _plain(row["published retained"]),
        "difference retained": _signed(row["difference retained"]),
        "printed": _plain(row["printed average"]),
    }


def _gap(row: pd.Series) -> dict[str, str]:
    return {
        "gap": f"{row['method']} - {row['against']}",
        "kept": str(row["kept"]),
        "benchmark": row["benchmark"],
        "n": f"{row['n']:,}",
        "ours": _interval(row["ours"], row["low"], row["high"], "+"),
        "p": p_value(row["p_holm"]),
        "published": _signed(row["published"]),
        "difference": _signed(row["difference"]),
        "verdict": row["verdict"],
    }


def _number(row: pd.Series) -> dict[str, str]:
    names = {"benchmark": row["benchmark"], "method": row["method"], "kept": str(row["kept"]), "number": row["number"]}
    return names | compared(row)


def compared(row: pd.Series) -> dict[str, str]:
    """Returns the cells of our number, the published one, and the verdict on their difference."""
    return {
        "n": f"{row['n']:,}",
        "ours": _interval(row["ours"], row["low"], row["high"]),
        "published": _plain(row["published"]),
        "difference": _signed(row["difference"]),
        "verdict": row["verdict"],
    }


def _interval(value: float, low: float, high: float, sign: str = "") -> str:
    if pd.isna(value):
        return "-"
    ends = "no interval" if pd.isna(low) or pd.isna(high) else f"{low:{sign}.1f}, {high:{sign}.1f}"
    return f"{value:{sign}.1f} [{ends}]"


def _plain(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.1f}"


def _signed(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:+.1f}"
