"""Our numbers beside those of the VTC-CLS paper, with a verdict for each."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.benchmarks import not_asked, number_of
from analysis.paper import BENCHMARKS, CHECKPOINT, METHODS, MODEL, PAPER
from analysis.records import read_records
from analysis.tables import grid
from foveate.core.files import replacing
from foveate.data.published import published
from foveate.evaluation.records import RecordFolder
from foveate.metrics.benchmarks import measures_of

_QUALITY = ("acc", "F1", "score")  # and not seconds
_JUDGED = "mmvet"  # by GPT-4, which is not asked here


class Reproduced(NamedTuple):
    """A finished run of the paper's grid; `keep` is None without compression."""

    method: str
    keep: int | None
    data: str
    records: RecordFolder


def needed(model: str, data: Sequence[str]) -> str:
    """What the grid needs, in words, for those who lack it."""
    return (
        f"To reproduce the table: the weights of {model} (`hf download {CHECKPOINT}`, 14 GB; a GPU with 24 GB: "
        f"--device cuda --dtype float16) and the data of {', '.join(data)} (docs/benchmarks.md tells their hub ids; "
        "--data pope:FILE reads a copy of yours). Parts can be run by themselves: --model, --data, --keep"
    )


def reproduction_table(runs: Sequence[Reproduced]) -> pd.DataFrame:
    """One row per run: our number with its interval, the published one, and the verdict.

    "inside": the published number lies in our 95 % interval, rounded as it is printed; "outside" otherwise; "not
    comparable" where the paper's number is another measure, "no interval" where too few questions give one, and "-"
    where the paper has no number.

    Args:
        runs: Of the paper's grid.
    """
    theirs_all = (p for p in published(PAPER) if p.model == MODEL and p.metric in _QUALITY)
    numbers = {(p.method, p.tokens_kept, p.benchmark): p for p in theirs_all}
    rows = []
    for run in runs:
        measure, frame = measures_of(run.data)[0], read_records(run.records.folder.parents[1], run.records.folder.name)
        found = number_of(measure, [frame])
        kept = "576" if run.keep is None else str(run.keep)
        theirs = numbers.get((METHODS[run.method], kept, BENCHMARKS[run.data]))
        low, high = (float(np.round(100 * bound, 1)) for bound in (found.low, found.high))
        row = {"benchmark": BENCHMARKS[run.data], "method": METHODS[run.method], "kept": run.keep or "all"}
        row |= {"number": measure.name, "ours": round(100 * found.mean, 1), "low": low, "high": high}
        row |= {"n": len(frame), "images": frame["image_id"].nunique(), "failed": len(run.records.failed())}
        value = float(theirs.value) if theirs else np.nan
        row |= {"published": value, "verdict": _verdict(run.data, value, low, high)}
        rows.append(row | {"source": theirs.source if theirs else ""})
    return pd.DataFrame(rows)


def report(runs: Sequence[Reproduced], model: str, folder: Path) -> str:
    """Writes `table.csv` and `table.md`; returns what to print."""
    table = reproduction_table(runs)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "table.csv") as path:
        table.to_csv(path, index=False, lineterminator="\n")
    counts = table["verdict"].value_counts()
    verdicts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in counts.index)
    text = f"{_legend(model)}\n\n{grid(_shown(table))}\n\nVerdicts: {verdicts}."
    with replacing(folder / "table.md") as path:
        path.write_text(text + "\n", encoding="utf-8")
    failed = {run.data: not_asked(run.records) for run in runs}
    said = [f"{data}: {sentence}" for data, sentence in failed.items() if sentence]
    return "\n\n".join([text, *said, f"Tables: {folder}"])


def _legend(model: str) -> str:
    return (
        f"Run on {model}, beside the numbers of {PAPER} (arXiv 2412.05819) for {MODEL}; brackets hold 95 % intervals "
        "over images. The verdict says whether the published number lies in our interval; about the paper "
        "it says something only if the two models are the same."
    )


def _verdict(data: str, value: float, low: float, high: float) -> str:
    if np.isnan(value):
        return "-"
    if data == _JUDGED:
        return "not comparable"
    if np.isnan(low):
        return "no interval"
    return "inside" if low <= value <= high else "outside"


def _bounds(low: float, high: float) -> str:
    return "no interval" if np.isnan(low) else f"{low:.1f}, {high:.1f}"


def _shown(table: pd.DataFrame) -> list[dict[str, str]]:
    return [
        {
            "benchmark": row["benchmark"],
            "method": row["method"],
            "kept": str(row["kept"]),
            "number": row["number"],
            "ours": f"{row['ours']:.1f} [{_bounds(row['low'], row['high'])}]",
            "n": f"{row['n']:,}",
            "published": "-" if pd.isna(row["published"]) else f"{row['published']:.1f}",
            "verdict": row["verdict"],
        }
        for _, row in table.iterrows()
    ]
