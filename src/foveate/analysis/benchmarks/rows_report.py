"""Report of published numbers beside ours: every number with its protocol, verdict and copies."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from foveate.analysis.benchmark_numbers import number_of
from foveate.analysis.benchmarks.data import verdict
from foveate.analysis.benchmarks.protocol import Protocol, protocol_of
from foveate.analysis.benchmarks.report import compared
from foveate.analysis.benchmarks.rows import Row, Settings, Wanted
from foveate.analysis.benchmarks.video_rows import other_frames
from foveate.analysis.records import failure_note, read_records
from foveate.analysis.statistics import Interval
from foveate.analysis.tables import grid, paragraphs, write_csv, write_text
from foveate.data.names import parsed
from foveate.data.published import Published
from foveate.data.sample import VQASample
from foveate.evaluation import EvalConfig
from foveate.evaluation.records import RecordFolder
from foveate.metrics.benchmarks import Measure, measures_of

BOTH = "perception and cognition"
_LEGEND = (
    "Numbers of {checkpoint} beside published ones of {model}, with 95 % intervals over images. The questions are the "
    "same, so the absolute difference decides: a number is the *same* if it differs by at most {tolerance:g} "
    "points{whole}. Protocols stand below by their fingerprint; what a paper did is known only as far as its source "
    "says."
)
_BY_OTHERS = "{paper} itself has no such number here: these are other papers' numbers of its method."
_COPIED = (
    "*Copied*: other papers print the same numbers of this method at this budget (so many of those that both have), so "
    "that these rows are one measurement and not several."
)


class Answered(NamedTuple):
    """A finished run of a method at a published budget.

    Attributes:
        cell: Our name of the method, the published budget (None without compression), and further options.
        config: Its evaluation.
        records: Its records.
        samples: Its questions.
        model_type: The checkpoint's `model_type`.
        rescaled: Reason why the published model is surely another one, or an empty string.
    """

    cell: tuple[str, int | float | None, Settings]
    config: EvalConfig
    records: RecordFolder
    samples: Sequence[VQASample]
    model_type: str
    rescaled: str = ""

    @property
    def data(self) -> str:
        """Name of the data set."""
        return parsed(self.config.data)[0]


def report_rows(
    found: Wanted, runs: Sequence[Answered], folder: Path, tolerance: float, unable: Mapping[str, str]
) -> str:
    """Writes `table.csv`, `protocols.csv` and `table.md`; returns the text to print.

    Args:
        found: The published numbers.
        runs: Runs of their methods, budgets and data sets.
        folder: Folder to write to; created if missing.
        tolerance: Largest difference in points at which a number counts as the published one.
        unable: Reasons why methods could not run on this model, by method and budget.
    """
    table, protocols = rows_table(found, runs, tolerance)
    write_csv(table, folder / "table.csv")
    write_csv(pd.DataFrame([{"fingerprint": p.fingerprint, **asdict(p)} for p in protocols]), folder / "protocols.csv")
    text = markdown(found, table, protocols, runs, tolerance, unable)
    write_text(text + "\n", folder / "table.md")
    failed = {run.data: failure_note(run.records) for run in runs}
    notes = [f"{data}: {note}" for data, note in failed.items() if note]
    return paragraphs(text, *notes, f"Tables: {folder}")


def rows_table(found: Wanted, runs: Sequence[Answered], tolerance: float) -> tuple[pd.DataFrame, list[Protocol]]:
    """Returns one row per published number whose run is there, and the protocols.

    Columns: paper, benchmark, method, kept (as printed), data, number, n, ours, low, high, published, difference,
    verdict, reason (of a number that is not comparable), copied, protocol (fingerprint), source. Shares are in %.

    Args:
        found: The published numbers.
        runs: Runs of their methods, budgets and data sets.
        tolerance: Largest difference in points of equal numbers.
    """
    by_key = {(run.cell, run.data): run for run in runs}
    rows, protocols, values = [], {}, {}
    for row in found.rows:
        key = (row.cell, row.data)
        if (run := by_key.get(key)) is None:
            continue
        measure = measure_of(row)
        if (*key, measure.name) not in values:
            frame = read_records(run.config.out, run.records.folder.name)
            values[*key, measure.name] = number_of(measure, [frame])
            protocols[row.data, measure.name] = protocol_of(run.config, run.samples, run.model_type, measure)
        own = _row(row, run, values[*key, measure.name], measure, tolerance)
        fingerprint = protocols[row.data, measure.name].fingerprint
        rows.append(own | {"protocol": fingerprint, "source": row.published.source})
    return pd.DataFrame(rows), list(protocols.values())


def measure_of(row: Row) -> Measure:
    """Returns our number of a published one; MME's two parts together are the sum of both."""
    measures = {measure.name: measure for measure in measures_of(row.data)}
    if row.number != BOTH:
        return measures[row.number] if row.number else measures_of(row.data)[0]
    first, second = measures["perception"], measures["cognition"]

    def parts(records: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([first.parts(records), second.parts(records)], 1)

    def added(sums: np.ndarray) -> np.ndarray:
        middle = 4 * round(first.unit / 200)  # columns: four per subtask, and 200 points each
        return first.from_sums(sums[..., :middle]) + second.from_sums(sums[..., middle:])

    return Measure(BOTH, first.unit + second.unit, parts, added, "kind")


def markdown(
    found: Wanted,
    table: pd.DataFrame,
    protocols: Sequence[Protocol],
    runs: Sequence[Answered],
    tolerance: float,
    unable: Mapping[str, str],
) -> str:
    """Returns numbers, protocols, and what was not run, in Markdown.

    Args:
        found: The published numbers.
        table: Table of `rows_table`.
        protocols: Protocols of `rows_table`.
        runs: The runs.
        tolerance: Largest difference in points of equal numbers.
        unable: Reasons why methods could not run on this model, by method and budget.
    """
    checkpoint, whole = runs[0].config.model, runs[0].config.limit is None
    note = "" if whole else "; only a part of the questions was asked (--limit), so no number is compared"
    parts = [_LEGEND.format(checkpoint=checkpoint, model=found.model, tolerance=tolerance, whole=note)]
    parts.append(_BY_OTHERS.format(paper=found.paper) if found.by_others else "")
    parts += ["## Numbers", grid([_cells(row) for _, row in table.iterrows()])]
    parts.append(_COPIED if (table["copied"] != "").any() else "")
    reasons = table[table["reason"] != ""].groupby("reason", sort=False)["benchmark"].unique()
    parts.append("\n".join(f"- not comparable, {', '.join(names)}: {why}" for why, names in reasons.items()))
    parts += ["## Protocols", "\n".join(f"- `{one.fingerprint}` {_described(one)}" for one in protocols)]
    return paragraphs(*parts, *_not_run(found, unable))


def _row(row: Row, run: Answered, interval: Interval, measure: Measure, tolerance: float) -> dict[str, Any]:
    scale = row.scale if measure.unit == 1 else 1.0
    ours, low, high = (float(np.round(scale * value, 1)) + 0.0 for value in interval[:3])
    other = other_frames(row.frames, run.config.frames, run.config.frames_as == "images")
    reason = row.incomparable or run.rescaled or other
    difference = round(ours - row.value, 1)
    return {
        "paper": row.published.paper,
        "benchmark": row.published.benchmark,
        "method": row.published.method,
        "kept": row.published.tokens_kept,
        "data": row.data,
        "number": measure.name,
        "n": interval.n,
        "ours": ours,
        "low": low,
        "high": high,
        "published": row.value,
        "difference": difference,
        "verdict": verdict(difference, tolerance, not reason, run.config.limit is None),
        "reason": reason,
        "copied": row.copied,
    }


def _cells(row: pd.Series) -> dict[str, str]:
    return {
        "paper": row["paper"],
        "benchmark": row["benchmark"],
        "method": row["method"],
        "kept": str(row["kept"]),
        "number": row["number"],
        **compared(row),
        "copied": row["copied"],
        "protocol": row["protocol"],
    }


def _described(one: Protocol) -> str:
    hints = "with" if one.ocr_hints else "without"
    frames = f", {one.frames} frames of each video" if one.frames else ""
    return (
        f"{one.data}, split {one.split}, {one.number} ({one.aggregation}), {hints} OCR hints{frames}, at most "
        f"{one.longest_answer} new tokens; {one.unpad}; prompt: {one.prompt or 'the question alone'}"
    )


def _not_run(found: Wanted, unable: Mapping[str, str]) -> list[str]:
    lines = [f"- {name}: {why}" for name, why in unable.items()]
    lines += [f"- {why}: {_counted(rows)}" for why, rows in found.refused.items()]
    return ["## Published numbers that were not run", "\n".join(lines)] if lines else []


def _counted(rows: Sequence[Published]) -> str:
    """Returns the number of rows, and what they are about."""
    names = list(dict.fromkeys(f"{row.method} on {row.benchmark}" for row in rows))
    return f"{len(rows)}, such as {', '.join(names[:3])}"
