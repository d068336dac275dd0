"""Makes, reads and compares the golden tables of the four studies; `python -m tests.golden_tables` makes them anew.

A golden table is what an experiment writes as CSV about the reference model, without the columns that name runs. The
settings are small, for the tables are to tell that a number has changed, not what it means.
"""

import csv
import math
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.scripts import ROOT, run

GOLDEN_TABLES = ROOT / "tests/golden/tables"
TOLERANCE = 1e-6  # absolute, and relative to the golden number; tables have six decimals
SHOWN = 10  # differences that a failure names
_LEFT_OUT = {"run", "run_id"}  # columns that change with the code, though no number does
_DIGITS = 9  # of the numbers in golden tables

_COMMON = ("--model", "reference", "--data", "scenes", "--seed", "0", "--device", "cpu")
SETTINGS = {
    "ablate_layers": ("--keep", "36", "7", "--limit", "66"),
    "compare_methods": ("--keep", "72", "16", "--limit", "66"),
    "search_weights": (
        *("--trials", "40", "--no-stops", "--sampler", "tpe", "--sampler-seed", "0"),  # 36 trials are planned
        *("--proxy", "response", "--candidates", "200", "--keep", "16", "--limit", "66"),
    ),
    "measure_bias": ("--limit", "44",),
}  # fmt: skip
"""Options of every experiment, beside those that all have."""

Table = list[list[str]]
"""The cells of a table, row by row, its columns' names first."""


def new_tables(experiment: str, folder: Path) -> dict[str, Table]:
    """Runs an experiment with its settings in an empty folder; returns its tables by name.

    Raises:
        RuntimeError: The experiment has failed.
    """
    result = run(experiment, *_COMMON, *SETTINGS[experiment], folder=folder)
    if result.returncode:
        raise RuntimeError(f"{experiment} ended with {result.returncode}: {result.stderr}")
    return _tables(folder / "runs" / experiment)


def golden_tables(experiment: str) -> dict[str, Table]:
    """Reads the golden tables of an experiment, by name."""
    return _tables(GOLDEN_TABLES / experiment)


def write_golden_tables(experiment: str, tables: dict[str, Table]) -> None:
    """Writes the tables of an experiment in the place of its golden ones."""
    folder = GOLDEN_TABLES / experiment
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.csv"):
        file.unlink()
    for name, rows in tables.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([_shortened(cell) for cell in row] for row in rows)


def differences(old: dict[str, Table], new: dict[str, Table]) -> list[str]:
    """Compares the tables of an experiment; returns a line for every difference, table by table.

    Where tables differ in their names, their columns or their count of rows, that is said first.
    """
    found = [f"table {name}: only in the old ones" for name in old if name not in new]
    found += [f"table {name}: only in the new ones" for name in new if name not in old]
    for name in [name for name in old if name in new]:
        found += [f"table {name}, {line}" for line in _differences_of_rows(old[name], new[name])]
    return found


def _differences_of_rows(old: Table, new: Table) -> list[str]:
    (columns, *old_rows), (new_columns, *new_rows) = old, new
    if columns != new_columns:
        lost = [column for column in columns if column not in new_columns]
        more = [column for column in new_columns if column not in columns]
        how = f"lost {lost}, added {more}" if lost or more else f"old order {columns}, new order {new_columns}"
        return [f"columns: {how}"]
    counts = [f"rows: old {len(old_rows)}, new {len(new_rows)}"] if len(old_rows) != len(new_rows) else []
    return counts + [
        f"row {number} ({', '.join(old_row[:4])}), column {column}: old {before!r}, new {after!r}"
        for number, (old_row, new_row) in enumerate(zip(old_rows, new_rows, strict=False), 1)
        for column, before, after in zip(columns, old_row, new_row, strict=True)
        if not _equal(before, after)
    ]


def _equal(old: str, new: str) -> bool:
    """Tells whether two cells have the same text, or numbers that are the same within the tolerance; NaN equals NaN."""
    a, b = _number(old), _number(new)
    if a is None or b is None:
        return old == new
    close = abs(a - b) <= TOLERANCE * (1 + abs(a)) if math.isfinite(a) and math.isfinite(b) else a == b
    return close or (math.isnan(a) and math.isnan(b))


def _tables(folder: Path) -> dict[str, Table]:
    return {file.stem: _read(file) for file in sorted(folder.glob("*.csv"))}


def _read(file: Path) -> Table:
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines))
    kept = [place for place, column in enumerate(rows[0]) if column not in _LEFT_OUT]
    return [[row[place] for place in kept] for row in rows]


def _shortened(cell: str) -> str:
    """Writes a number with a point as shortly as its digits allow, and leaves all else."""
    number = _number(cell)
    return cell if number is None or "." not in cell else f"{number:.{_DIGITS}g}"


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def main() -> int:
    """Makes the golden tables anew and prints what has changed; returns the exit status."""
    for experiment in SETTINGS:
        with TemporaryDirectory(prefix="foveate-golden-") as folder:
            tables = new_tables(experiment, Path(folder))
        changed = differences(golden_tables(experiment), tables)
        if changed:
            write_golden_tables(experiment, tables)
        print(f"{experiment}: {len(changed)} differences", *changed[:SHOWN], sep="\n  ", flush=True)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, which the experiments' server does
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
