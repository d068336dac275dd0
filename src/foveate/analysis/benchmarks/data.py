"""Data of a reproduction of the VTC-CLS paper: numbers, averages and gaps beside the published ones."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from foveate.analysis.benchmark_numbers import number_of
from foveate.analysis.benchmarks.gaps import Gap, averaged, gap, p_of
from foveate.analysis.benchmarks.paper import BENCHMARKS, CLAIMS, JUDGED, LABELS, METHODS, MODEL, PAPER, SAME_QUESTIONS
from foveate.analysis.records import read_records
from foveate.analysis.statistics import Interval
from foveate.analysis.tables import VERDICTS
from foveate.analysis.verdicts import holm, side, too_few
from foveate.data.published import published
from foveate.evaluation.records import RecordFolder
from foveate.metrics.benchmarks import measures_of

AVERAGE = "average"
_QUALITY = ("acc", "F1", "score", "mean of raw scores")  # metrics of the paper other than seconds
_SHOWN = 2  # numbers of a benchmark; the first is the published one


class Reproduced(NamedTuple):
    """A finished run of the paper's grid; `method` is a key of `METHODS`, `keep` is None without compression."""

    method: str
    keep: int | None
    data: str
    records: RecordFolder

    @property
    def label(self) -> str:
        """The method's name in tables."""
        return LABELS[self.method]


class BenchmarkResult(NamedTuple):
    """The answers of a run; `theirs` is the paper's name of the method."""

    label: str
    theirs: str
    keep: int | None
    data: str
    frame: pd.DataFrame
    failed: int


Numbers = Mapping[tuple[str, str, str], float]
"""Published numbers by method, kept tokens and benchmark, as the paper names them."""


def read_run(run: Reproduced) -> BenchmarkResult:
    """Reads the records of a run."""
    frame = read_records(run.records.folder.parents[1], run.records.folder.name)
    return BenchmarkResult(run.label, METHODS[run.method], run.keep, run.data, frame, len(run.records.failed()))


def reproduction_table(runs: Sequence[BenchmarkResult], tolerance: float, whole: bool) -> pd.DataFrame:
    """Returns two rows per run: the published number of its benchmark, and a second number that the paper lacks.

    Values are in % with one decimal, as in the paper; `verdict` is that of the function `verdict`.

    Args:
        runs: Runs of the paper's grid.
        tolerance: Largest difference in points of equal numbers.
        whole: Whether all questions of every benchmark were asked.
    """
    theirs, rows = _published(), []
    for run, index in product(runs, range(_SHOWN)):
        if index >= len(measures_of(run.data)):
            continue
        measure = measures_of(run.data)[index]
        value, low, high, n = number_of(measure, [run.frame])
        row = {"benchmark": BENCHMARKS[run.data], "method": run.label, "kept": run.keep or "all"}
        row |= {"number": measure.name, "ours": _points(value), "low": _points(low), "high": _points(high)}
        row |= {"n": n, "failed": run.failed}
        stated = theirs.get(_key(run, BENCHMARKS[run.data]), np.nan) if index == 0 else np.nan
        row |= {"published": stated, "difference": round(row["ours"] - stated, 1)}
        comparable = run.data != JUDGED
        rows.append(row | {"verdict": verdict(row["difference"], tolerance, comparable, whole)})
    return pd.DataFrame(rows)


def averages_table(runs: Sequence[BenchmarkResult], tolerance: float, whole: bool) -> pd.DataFrame:
    """Returns one row per method and budget: means over benchmarks, and the share retained of the uncompressed model.

    Both sides are averaged over the benchmarks that were run, without MM-Vet, which is graded differently; `published`
    is NaN unless the paper has all of these numbers. The interval of the retained share is that of the paired
    differences from the uncompressed model, whose numbers are taken as exact.

    Args:
        runs: Runs of the paper's grid.
        tolerance: Largest difference in points of equal numbers.
        whole: Whether all questions of every benchmark were asked.
    """
    theirs, rows = _published(), []
    full = {run.data: run for run in runs if run.keep is None and run.data != JUDGED}
    for (label, keep), members in _grouped(runs).items():
        found = {run.data: number_of(measures_of(run.data)[0], [run.frame]) for run in members}
        mean, kept = averaged(found, SAME_QUESTIONS), _retained(members, full)
        stated = {run.data: theirs.get(_key(run, BENCHMARKS[run.data]), np.nan) for run in members}
        base = {data: theirs.get(_key(full[data], BENCHMARKS[data]), np.nan) for data in stated}
        row = {"method": label, "kept": keep or "all", "benchmarks": len(members), "n": mean.n}
        row |= {"ours": _points(mean.mean), "low": _points(mean.low), "high": _points(mean.high)}
        row |= {"published": round(float(np.mean(list(stated.values()))), 1)}
        row |= {"difference": round(row["ours"] - row["published"], 1)}
        row |= {"verdict": verdict(row["difference"], tolerance, True, whole)}
        row |= {"retained": _points(kept.mean), "retained low": _points(kept.low), "retained high": _points(kept.high)}
        row["published retained"] = round(float(np.mean([100 * stated[data] / base[data] for data in stated])), 1)
        row["difference retained"] = round(row["retained"] - row["published retained"], 1)
        rows.append(row | {"printed average": theirs.get(_key(members[0], "Avg"), np.nan)})
    return pd.DataFrame(rows)


def gaps_table(runs: Sequence[BenchmarkResult]) -> pd.DataFrame:
    """Returns one row per claim of the paper, budget and benchmark, and one per claim and budget for the average.

    The verdict rests on a permutation test over images, Holm-corrected over the table: "confirmed" if our gap has the
    published sign, "contrary" if it has the opposite sign, "not significant" otherwise.

    Args:
        runs: Runs of the paper's grid.
    """
    theirs, rows = _published(), []
    groups = _grouped(runs)
    for (one, other), keep in product(CLAIMS, dict.fromkeys(keep for _, keep in groups if keep is not None)):
        pairs = list(zip(groups.get((one, keep), ()), groups.get((other, keep), ()), strict=True))
        found = {run.data: _gap(run, rival) for run, rival in pairs}
        stated = {run.data: _stated(theirs, run, rival) for run, rival in pairs}
        named = {"method": one, "against": other, "kept": keep}
        for data, between in found.items():
            row = _gap_row(between.interval, [between], stated[data])
            rows.append({**named, "benchmark": BENCHMARKS[data], **row})
        if len(found) > 1:
            mean = averaged({data: between.interval for data, between in found.items()}, SAME_QUESTIONS)
            row = _gap_row(mean, found.values(), float(np.mean(list(stated.values()))))
            rows.append({**named, "benchmark": AVERAGE, **row})
    return _judged(pd.DataFrame(rows))


def verdict(difference: float, tolerance: float, comparable: bool, whole: bool) -> str:
    """Returns whether our number equals the published one.

    The questions are the same, so there is no sampling error and the absolute difference decides.

    Args:
        difference: Difference of our number from the published one in points; NaN without a published number.
        tolerance: Largest difference in points of equal numbers.
        comparable: Whether both numbers are the same measure.
        whole: Whether all questions were asked.
    """
    if np.isnan(difference):
        return "-"
    if not comparable:
        return "not comparable"
    if not whole:
        return "part of the questions"
    return "same" if abs(difference) <= tolerance + 1e-9 else "differs"


def _published() -> Numbers:
    """Returns the numbers of the paper's own tables of performance."""
    found = (p for p in published(PAPER) if p.model == MODEL and p.metric in _QUALITY and "performance" in p.source)
    return {(p.method, p.tokens_kept, p.benchmark): float(p.value) for p in found}


def _key(run: BenchmarkResult, benchmark: str) -> tuple[str, str, str]:
    return run.theirs, "576" if run.keep is None else str(run.keep), benchmark


def _stated(theirs: Numbers, one: BenchmarkResult, other: BenchmarkResult) -> float:
    """Returns the published gap between two runs on one benchmark, in points."""
    values = [theirs.get(_key(run, BENCHMARKS[run.data]), np.nan) for run in (one, other)]
    return round(values[0] - values[1], 1)


def _grouped(runs: Iterable[BenchmarkResult]) -> dict[tuple[str, int | None], list[BenchmarkResult]]:
    """Returns the comparable runs of each method and budget."""
    groups: dict[tuple[str, int | None], list[BenchmarkResult]] = {}
    for run in runs:
        if run.data != JUDGED:
            groups.setdefault((run.label, run.keep), []).append(run)
    return groups


def _retained(members: Sequence[BenchmarkResult], full: Mapping[str, BenchmarkResult]) -> Interval:
    """Returns the mean over benchmarks of a method's number as a share of the uncompressed model's."""
    shares: dict[str, Interval] = {}
    for run in members:
        measure = measures_of(run.data)[0]
        base = number_of(measure, [full[run.data].frame]).mean
        if not base > 0:  # a share of 0 is undefined
            return Interval(np.nan, np.nan, np.nan, 0)
        found = _gap(run, full[run.data]).interval
        low, mean, high = (1 + end / base for end in (found.low, found.mean, found.high))
        shares[run.data] = Interval(mean, low, high, found.n)
    return averaged(shares, SAME_QUESTIONS)


def _gap(run: BenchmarkResult, rival: BenchmarkResult) -> Gap:
    """Returns the gap of two runs in the published number; benchmarks with the same questions share their swaps."""
    seed = list(BENCHMARKS).index(SAME_QUESTIONS.get(run.data, run.data))
    return gap(measures_of(run.data)[0], run.frame, rival.frame, seed)


def _gap_row(interval: Interval, gaps: Collection[Gap], stated: float) -> dict[str, float]:
    row = {"images": sum(one.images for one in gaps), "n": interval.n, "ours": _points(interval.mean)}
    row |= {"low": _points(interval.low), "high": _points(interval.high)}
    return row | {"published": round(stated, 1), "p": p_of(gaps)}


def _judged(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the table with corrected p values and verdicts."""
    if table.empty:
        return table
    corrected = holm(table["p"])
    table = table.assign(difference=(table["ours"] - table["published"]).round(1), p_holm=corrected)
    sides = [side(found, p) for found, p in zip(table["ours"].to_numpy(float), corrected, strict=True)]
    few = [bool(too_few(int(images), len(table))) for images in table["images"].to_numpy(int)]
    judged = zip(table["published"].to_numpy(float), sides, few, strict=True)
    return table.assign(verdict=[_claim(stated, found, small) for stated, found, small in judged])


def _claim(stated: float, found: int, few: bool) -> str:
    if np.isnan(stated) or stated == 0:
        return "-"
    if few:
        return "too few images"
    return VERDICTS[0] if found == 0 else "confirmed" if found == np.sign(stated) else "contrary"


def _points(share: float) -> float:
    """Returns a share in percent with one decimal, as papers print it."""
    return float(np.round(100 * share, 1)) + 0.0
