"""The numbers that benchmarks are known by, of every method, with intervals over images."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.ablation.data import BUDGETLESS, Cell
from analysis.records import read_records
from analysis.statistics import Interval, mean_interval, summed_interval
from analysis.tables import grid
from foveate.core.storage import atomic_write
from foveate.evaluation.records import RecordFolder
from foveate.metrics.benchmarks import MEASURES, Measure, measures_of

FILE = "benchmark.csv"
_KEYS = ["method", "budget"]


def benchmark_table(data: str, cells: Iterable[Cell], out: Path) -> pd.DataFrame:
    """Returns one row per method, budget and number, in the order of the cells.

    Columns: data, method, budget, number, largest (possible value), n, images, failed, value, low, high. Seeds are one
    row with their mean.

    Args:
        data: Name of the data set.
        cells: As `cells_of` gives them.
        out: Folder that holds `records/`.
    """
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.family, cell.keep), []).append(cell)
    rows = []
    for (method, budget), members in groups.items():
        seeds = [read_records(out, cell.run_id) for cell in members]
        named = {"data": data, "method": method, "budget": budget}
        failed = len(RecordFolder(out / "records" / members[0].run_id).failed())
        for measure in measures_of(data):
            value, low, high, n = number_of(measure, seeds)
            row = {"number": measure.name, "largest": measure.unit, "n": n, "images": _images(measure, seeds[0])}
            rows.append(named | row | {"failed": failed, "value": value, "low": low, "high": high})
    return pd.DataFrame(rows)


def _images(measure: Measure, frame: pd.DataFrame) -> int:
    """Returns how many images the questions of a number are about; text-only questions have none."""
    return frame.loc[measure.selected(columns_of(frame)) & frame["has_image"], "image_id"].nunique()


def number_of(measure: Measure, seeds: Sequence[pd.DataFrame]) -> Interval:
    """Returns one number of a run, or the mean over the runs of several seeds on the same questions.

    Of a mean it has Wilson's interval, of other numbers that of a bootstrap over images; both are about other
    images, not about other seeds.
    """
    seeds = [frame[measure.selected(columns_of(frame))] for frame in seeds]
    images = seeds[0]["image_id"]
    if not len(images):
        return Interval(np.nan, np.nan, np.nan, 0)
    parts = [measure.parts(columns_of(frame)) for frame in seeds]
    if measure.is_mean:
        counted = parts[0][:, 1] > 0
        return mean_interval(np.mean([one[counted, 0] for one in parts], 0), images[counted])
    return summed_interval(parts, images, measure.from_sums, seeds[0][measure.stratum] if measure.stratum else None)


def columns_of(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """Returns the columns of records as arrays, as measures take them."""
    return {str(name): column.to_numpy() for name, column in frame.items()}


def write_numbers(data: str, cells: Sequence[Cell], out: Path, folder: Path) -> str:
    """Writes the table of a benchmark as `benchmark.csv` and `benchmark.md`; returns its first number, to be printed.

    Nothing is written of data sets that are no benchmark and have no other number than the mean score.

    Args:
        data: Name of the data set.
        cells: As `cells_of` gives them.
        out: Folder that holds `records/`.
        folder: Where to write.
    """
    if data == "scenes":
        return ""
    table = benchmark_table(data, cells, out)
    _write(table, folder / FILE)
    with atomic_write(folder / "benchmark.md") as path:
        path.write_text(_markdown(table), encoding="utf-8")
    if data not in MEASURES:
        return ""
    first = table[table["number"] == table["number"].iloc[0]]
    return f"{first['number'].iloc[0]} of {data}, 95 % intervals over images:\n\n{_wide(first, 'budget').to_string()}"


def overview(folders: Mapping[str, Path], out: Path) -> str:
    """Writes the first number of every benchmark by method and budget, as `benchmarks.csv` and `.md` in a folder.

    Args:
        folders: By data set: where `write_numbers` wrote.
        out: Folder to write to.

    Returns:
        What to print; nothing with fewer than two benchmarks.
    """
    tables = [pd.read_csv(folder / FILE) for folder in folders.values() if (folder / FILE).exists()]
    if len(tables) < 2:
        return ""
    firsts = pd.concat([table[table["number"] == table["number"].iloc[0]] for table in tables])
    firsts = firsts.assign(headline=firsts["data"] + " " + firsts["number"])
    shown = firsts.assign(budget=firsts["budget"].where(~firsts["method"].isin(BUDGETLESS), 0))
    wide = _wide(shown, "headline", _KEYS)
    _write(firsts, out / "benchmarks.csv")
    cells = [{"method": m, "budget": str(b) if b else "", **row} for (m, b), row in wide.to_dict("index").items()]
    with atomic_write(out / "benchmarks.md") as path:
        path.write_text(f"{_sizes(firsts)}\n\n{grid(cells)}\n", encoding="utf-8")
    return wide.to_string()


def failures(cells: Sequence[Cell], out: Path) -> str:
    """Returns how many questions could not be asked, in a sentence; nothing if all could."""
    return not_asked(RecordFolder(out / "records" / cells[0].run_id)) if cells else ""


def not_asked(records: RecordFolder) -> str:
    """Returns how many questions of a run could not be asked, and why the first; nothing if all could."""
    failed = records.failed()
    if not failed:
        return ""
    first = min(failed)
    return (
        f"Not asked, and in no number, neither as right nor as wrong: {len(failed)} questions. The first, {first!r}: "
        f"{failed[first]}"
    )


def _markdown(table: pd.DataFrame) -> str:
    parts = [_sizes(table)]
    for number, rows in table.groupby("number", sort=False):
        wide = _wide(rows, "budget")
        lines = [{"method": str(m), **{str(b): v for b, v in row.items()}} for m, row in wide.to_dict("index").items()]
        parts += [f"## {number}", grid(lines)]
    return "\n\n".join(parts) + "\n"


def _sizes(table: pd.DataFrame) -> str:
    sizes = table.drop_duplicates("data")
    brackets = (
        "In brackets the 95 % interval over images, Wilson's of means and by bootstrap of other numbers; of "
        "methods with several seeds it is that of the mean over these seeds. Columns are budgets. "
    )
    said = [f"{r.data}: {r.n:,} questions about {r.images:,} images, {r.failed} not asked" for r in sizes.itertuples()]
    return brackets + "; ".join(said) + "."


def _wide(rows: pd.DataFrame, columns: str, index: list[str] | str = "method") -> pd.DataFrame:
    values = rows[["value", "low", "high", "largest"]].to_numpy(float)
    shown = rows.assign(shown=[_shown(*value) for value in values])
    order = rows[index].drop_duplicates()
    wide = shown.pivot(index=index, columns=columns, values="shown").fillna("")
    wide = wide[list(rows[columns].drop_duplicates())]
    return wide.loc[list(order.itertuples(index=False, name=None)) if isinstance(index, list) else list(order)]


def _shown(value: float, low: float, high: float, largest: float) -> str:
    """In percent if it is a share: `81.2 [79.5, 82.8]`."""
    scale = 100 if largest == 1 else 1
    if pd.isna(value):
        return "-"
    interval = "no interval" if pd.isna(low) else f"{scale * low:.1f}, {scale * high:.1f}"
    return f"{scale * value:.1f} [{interval}]"


def _write(table: pd.DataFrame, path: Path) -> None:
    with atomic_write(path) as file:
        table.to_csv(file, index=False, float_format="%.6f", lineterminator="\n")
