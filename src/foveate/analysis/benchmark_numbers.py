"""Official numbers of benchmarks for every method, with intervals over images."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from foveate.analysis.cells import BUDGETLESS, Cell
from foveate.analysis.records import read_records
from foveate.analysis.statistics import Interval, mean_interval, summed_interval
from foveate.analysis.tables import grid, write_csv, write_text
from foveate.data.names import GENERATED
from foveate.evaluation.records import RecordFolder
from foveate.metrics.benchmarks import MEASURES, Measure, measures_of

FILE = "benchmark.csv"
_KEYS = ["method", "budget"]
_WORST = (
    "Worst task: the benchmark of which a row retains the smallest share of the number of full, taken as exact, or "
    "without full of the largest number. Its interval is that of this benchmark alone and does not cover the choice."
)


def benchmark_table(data: str, cells: Iterable[Cell], out: Path) -> pd.DataFrame:
    """Returns one row per method, budget and number, in the order of the cells.

    Columns: data, method, budget, number, largest (possible value), n, images, failed, value, low, high. Seeds form
    one row with their mean.

    Args:
        data: Name of the data set.
        cells: The cells, as `cells_of` returns them.
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


def number_of(measure: Measure, seeds: Sequence[pd.DataFrame]) -> Interval:
    """Returns one number of a run, or its mean over the runs of several seeds on the same questions.

    A mean has Wilson's interval, other numbers have a bootstrap interval over images, or over the measure's own
    clusters; neither covers other seeds.

    Args:
        measure: The number.
        seeds: Records of each seed.
    """
    seeds = [frame[measure.selected(columns_of(frame))] for frame in seeds]
    images = measure.cluster(columns_of(seeds[0]))
    if not len(images):
        return Interval(np.nan, np.nan, np.nan, 0)
    parts = [measure.parts(columns_of(frame)) for frame in seeds]
    if measure.is_mean:
        counted = parts[0][:, 1] > 0
        return mean_interval(np.mean([one[counted, 0] for one in parts], 0), images[counted])
    return summed_interval(parts, images, measure.from_sums, seeds[0][measure.stratum] if measure.stratum else None)


def columns_of(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """Returns the columns of records as arrays, which measures take."""
    return {str(name): column.to_numpy() for name, column in frame.items()}


def write_numbers(data: str, cells: Sequence[Cell], out: Path, folder: Path) -> str:
    """Writes the table of a benchmark as `benchmark.csv` and `benchmark.md`; returns its first number for printing.

    Nothing is written for generated data, and nothing returned for data sets whose only number is the mean score.

    Args:
        data: Name of the data set.
        cells: The cells, as `cells_of` returns them.
        out: Folder that holds `records/`.
        folder: Folder to write to.
    """
    if data in GENERATED:
        return ""
    table = benchmark_table(data, cells, out)
    write_csv(table, folder / FILE)
    write_text(_markdown(table), folder / "benchmark.md")
    if data not in MEASURES:
        return ""
    first = table[table["number"] == table["number"].iloc[0]]
    return f"{first['number'].iloc[0]} of {data}, 95 % intervals over images:\n\n{_wide(first, 'budget').to_string()}"


def overview(folders: Mapping[str, Path], out: Path, one_method: bool = False) -> str:
    """Writes the first number of every benchmark by method and budget as `benchmarks.csv` and `benchmarks.md`.

    In these files stands the worst task beside them: the benchmark of which a row retains the least of the number of
    `full`, or without `full` of the largest possible number. It is printed of one method only; of several, the summary
    of a comparison names the worst task of each, which is chosen on other images than it is reported on.

    Args:
        folders: Folder of each data set, to which `write_numbers` wrote.
        out: Folder to write to.
        one_method: Whether all numbers are of one method, which then has one row, although its mean number of tokens
            differs between the data sets.

    Returns:
        The table for printing; an empty string with fewer than two benchmarks.
    """
    tables = [pd.read_csv(folder / FILE) for folder in folders.values() if (folder / FILE).exists()]
    if len(tables) < 2:
        return ""
    firsts = pd.concat([_with_retained(table[table["number"] == table["number"].iloc[0]]) for table in tables])
    firsts = firsts.assign(headline=firsts["data"] + " " + firsts["number"])
    budgets = firsts["budget"].where(~firsts["method"].isin(BUDGETLESS), 0)
    shown = firsts.assign(budget=0 if one_method else budgets)
    numbers = _wide(shown, "headline", _KEYS)
    wide = numbers.copy()
    wide.insert(0, "worst task", pd.Series({key: _worst_task(rows) for key, rows in shown.groupby(_KEYS)}))
    rows = zip(wide.index.to_list(), wide.to_dict("records"), strict=True)
    cells = [{"method": method, "budget": str(budget) if budget else "", **row} for (method, budget), row in rows]
    write_csv(firsts, out / "benchmarks.csv")
    write_text(f"{_sizes(firsts)} {_WORST}\n\n{grid(cells)}\n", out / "benchmarks.md")
    return f"{wide.to_string()}\n{_WORST}" if one_method else numbers.to_string()


def _with_retained(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns rows of one number with the columns retained, retained_low and retained_high.

    They are shares of the number of `full`, which is taken as exact, and for `full` itself, or without it, of the
    largest possible number; where smaller is better, the distances from the largest are compared.
    """
    data, largest = rows["data"].iloc[0], rows["largest"].iloc[0]
    good = rows[["value", "low", "high"]].to_numpy(float)
    if measures_of(data)[0].lower_is_better:
        good = largest - good[:, [0, 2, 1]]
    whole = (rows["method"] == "full").to_numpy()
    full = good[whole, 0].max(initial=0)
    against = ~whole & (full > 0)
    shares = (good / np.where(against, full, largest)[:, None]).T
    named = dict(zip(("retained", "retained_low", "retained_high"), shares, strict=True))
    return rows.assign(**named, base=np.where(against, "full", "the largest"))


def _worst_task(rows: pd.DataFrame) -> str:
    """Returns the data set of which a method retains the least, with that share and its interval in %."""
    if rows["retained"].isna().all():
        return "-"
    worst = rows.iloc[int(rows["retained"].argmin())]
    share = _shown(worst["retained"], worst["retained_low"], worst["retained_high"], 1)
    return f"{worst['data']} {share} % of {worst['base']}"


def _images(measure: Measure, frame: pd.DataFrame) -> int:
    """Returns the number of images of a number's questions; text-only questions have none."""
    return frame.loc[measure.selected(columns_of(frame)) & frame["has_image"], "image_id"].nunique()


def _markdown(table: pd.DataFrame) -> str:
    parts = [_sizes(table)]
    for number, rows in table.groupby("number", sort=False):
        wide = _wide(rows, "budget")
        lines = [{"method": str(m), **{str(b): v for b, v in row.items()}} for m, row in wide.to_dict("index").items()]
        parts += [f"## {number}", grid(lines)]
    return "\n\n".join(parts) + "\n"


def _sizes(table: pd.DataFrame) -> str:
    legend = (
        "Columns are budgets. Brackets hold 95 % intervals over images: Wilson's for means, bootstrap for other "
        "numbers; several seeds have the interval of their mean. "
    )
    sizes = [
        f"{row.data}: n = {row.n:,} questions about {row.images:,} images, {row.failed} failed"
        for row in table.drop_duplicates("data").itertuples()
    ]
    return legend + "; ".join(sizes) + "."


def _wide(rows: pd.DataFrame, columns: str, index: list[str] | str = "method") -> pd.DataFrame:
    values = rows[["value", "low", "high", "largest"]].to_numpy(float)
    shown = rows.assign(shown=[_shown(*value) for value in values])
    order = rows[index].drop_duplicates()
    wide = shown.pivot(index=index, columns=columns, values="shown").fillna("")
    wide = wide[list(rows[columns].drop_duplicates())]
    return wide.loc[list(order.itertuples(index=False, name=None)) if isinstance(index, list) else list(order)]


def _shown(value: float, low: float, high: float, largest: float) -> str:
    """Formats a number with its interval, shares in percent: `81.2 [79.5, 82.8]`."""
    scale = 100 if largest == 1 else 1
    if pd.isna(value):
        return "-"
    interval = "no interval" if pd.isna(low) else f"{scale * low:.1f}, {scale * high:.1f}"
    return f"{scale * value:.1f} [{interval}]"
