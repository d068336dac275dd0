"""Data of the confirming split, whose questions the search did not use."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optuna
import pandas as pd
from optuna.trial import FrozenTrial

from foveate.analysis.cells import PIXEL_FILTERS, Cell, cells_of, read_cells, row_of, runs_of
from foveate.analysis.records import read_records
from foveate.analysis.search.data import trials_of, whole_trials
from foveate.analysis.statistics import Interval, difference_interval, mean_interval
from foveate.analysis.verdicts import holm, paired_p
from foveate.core.progress import bar

BASELINES = ("best single layer", "uniform ensemble", "published default")
CONTROLS = ("random", "uniform", "pool", "downsample", *PIXEL_FILTERS)
FOUND = ("winner", "front ")  # prefixes of the scorers that the search found
_ANSWERS = {
    "accuracy": ("accuracy", "ci_low", "ci_high"),
    "quality": ("log_probability", "log_low", "log_high"),
}
_MEMBER = ["scorer", "trial", "x", "y", "test_x", "test_y", "low", "high"]


class Front(NamedTuple):
    """The Pareto front over two goals, as searched and as confirmed.

    Attributes:
        goals: Goal of the x axis, a cost if there is one, and goal of the y axis.
        tried: Columns x and y of other trials that were evaluated in full.
        members: One row per member: scorer, trial, x, y on the searched split, and test_x, test_y, low, high.
        controls: Columns scorer, x, y, low, high of `random` and `uniform` at the members' budgets, confirming split.
        n: Number of questions of the confirming split.
        images: Number of images of the confirming split.
    """

    goals: tuple[str, str]
    tried: pd.DataFrame
    members: pd.DataFrame
    controls: pd.DataFrame
    n: int
    images: int


def confirmed_table(study: optuna.Study, test: optuna.Study, out: Path) -> pd.DataFrame:
    """Returns one row per winner, baseline and control on the confirming split, by falling budget.

    Columns: those of `ablation_table`; log-probability with interval; gain of the budget's winner over the row, paired
    by question, with an interval and a permutation p, Holm-corrected over the column; and optimism, NaN if the search
    did not evaluate the row's compressor in full. If members of a front share a budget, its winner is the most accurate
    on the searched split. If the row has the winner's compressor, the gain is exactly 0 without a p.

    Args:
        study: The search.
        test: The study that confirms it.
        out: Folder that holds `records/`.
    """
    frames = read_cells(cells_of(test), out, lambda records: {"log_probability": records["log_probability"].to_numpy()})
    twins = _twins(study, test, frames)
    full = next((frame for cell, frame in frames.items() if cell.family == "full"), None)
    random = {cell.keep: frame for cell, frame in frames.items() if cell.scorer == "random"}
    winner = _winner_of_budgets(twins)
    rows = []
    for cell, frame in bar(frames.items(), "cell", "comparing"):
        row = row_of(cell, frame, full, random.get(cell.keep))
        row |= dict(zip(_ANSWERS["quality"], _mean_of_any(frame["log_probability"], frame["image_id"]), strict=True))
        found = None if cell.scorer.startswith(FOUND) else winner.get(cell.keep)
        gain = _gain(found, cell, frames) if found else (np.nan,) * 4
        row |= dict(zip(("winner_gains", "gain_low", "gain_high", "p_holm"), gain, strict=True))
        twin = twins[cell]
        bias = optimism(read_records(out, twin.user_attrs["run_id"]), frame)[:3] if twin else (np.nan,) * 3
        rows.append(row | dict(zip(("optimism", "optimism_low", "optimism_high"), bias, strict=True)))
    table = pd.DataFrame(rows)
    for column in ("p_vs_random_holm", "p_holm"):
        table[column] = holm(table[column])
    order = {name: i for i, name in enumerate(("full", *BASELINES, *CONTROLS))}
    rank = [-1 if name.startswith(FOUND) else order.get(name, len(order)) for name in table["scorer"]]
    table = table.assign(rank=rank).sort_values(["keep", "rank"], ascending=[False, True], kind="stable")
    return table.drop(columns="rank")


def optimism(searched: pd.DataFrame, confirmed: pd.DataFrame) -> Interval:
    """Returns the mean score on the searched split minus that on the other, with equal weights of images.

    The splits hold different images, so the intervals of both sides are combined by square-and-add (Newcombe 1998,
    Statistics in Medicine 17, 873, method 10). The ends are NaN if a side has only one image.

    Args:
        searched: Records of the searched split.
        confirmed: Records of the same compressor on the confirming split.
    """
    sides = [frame.groupby("image_id")["score"].mean().to_numpy(float) for frame in (searched, confirmed)]
    a, b = (mean_interval(side, np.arange(len(side))) for side in sides)
    mean, n = a.mean - b.mean, len(confirmed)
    if min(a.n, b.n) < 2:
        return Interval(mean, np.nan, np.nan, n)
    down, up = np.hypot(a.mean - a.low, b.high - b.mean), np.hypot(a.high - a.mean, b.mean - b.low)
    return Interval(mean, mean - float(down), mean + float(up), n)


def front_data(study: optuna.Study, test: optuna.Study, winners: list[FrozenTrial], table: pd.DataFrame) -> Front:
    """Returns the Pareto front of a search for several goals, with its numbers on the confirming split.

    Args:
        study: The search.
        test: The study that confirms it.
        winners: Members of the front.
        table: Table of `confirmed_table`.
    """
    goals = study.user_attrs["goals"]
    cost = next((goal for goal in goals if goal not in _ANSWERS), goals[0])
    benefit = next((goal for goal in goals if goal in _ANSWERS and goal != cost), "accuracy")
    by_compressor = {trial.user_attrs["compressor_id"]: trial for trial in winners}
    members = []
    for trial in trials_of(test):
        found = by_compressor.get(trial.user_attrs["compressor_id"])
        row = table[(table["scorer"] == trial.params["scorer"]) & (table["keep"] == trial.params.get("keep"))]
        if found is None or row.empty or not trial.params["scorer"].startswith(FOUND):
            continue
        test_x = trial.user_attrs.get(cost, found.user_attrs[cost])  # only the search measures milliseconds
        searched = {"x": found.user_attrs[cost], "y": found.user_attrs[benefit], "test_x": test_x}
        answers = dict(zip(("test_y", "low", "high"), row.iloc[0][list(_ANSWERS[benefit])], strict=True))
        members.append({"scorer": trial.params["scorer"], "trial": found.number} | searched | answers)
    controls = table[table["scorer"].isin(["random", "uniform"])] if cost == "tokens" else table.head(0)
    controls = controls[["scorer", "keep", *_ANSWERS[benefit]]].set_axis(["scorer", "x", "y", "low", "high"], axis=1)
    others = [t.user_attrs for t in whole_trials(study) if t.user_attrs["compressor_id"] not in by_compressor]
    tried = pd.DataFrame([(facts[cost], facts[benefit]) for facts in others], columns=["x", "y"])
    size = int(table["n"].iloc[0]), int(table["images"].iloc[0])
    front = pd.DataFrame(members, columns=_MEMBER).sort_values("x", ignore_index=True)
    return Front((cost, benefit), tried, front, controls, *size)


def _gain(found: Cell, cell: Cell, frames: Mapping[Cell, pd.DataFrame]) -> tuple[float, float, float, float]:
    """Returns the gain of a winner over a cell, the ends of its interval, and p."""
    if found.run_id == cell.run_id:  # the same compressor, so there is nothing to test
        return 0.0, 0.0, 0.0, np.nan
    a, b = frames[found], frames[cell]
    mean, low, high, _ = difference_interval(a["score"], b["score"], b["image_id"])
    return mean, low, high, paired_p(runs_of(a), runs_of(b), b["image_id"])


def _twins(study: optuna.Study, test: optuna.Study, cells: Iterable[Cell]) -> dict[Cell, FrozenTrial | None]:
    """Returns the trial of the search that evaluated the compressor of each cell, if any."""
    searched = {trial.user_attrs["compressor_id"]: trial for trial in whole_trials(study)}
    evaluated = {trial.user_attrs["run_id"]: trial.user_attrs["compressor_id"] for trial in trials_of(test)}
    return {cell: searched.get(evaluated.get(cell.run_id, "")) for cell in cells}


def _winner_of_budgets(twins: Mapping[Cell, FrozenTrial | None]) -> dict[int, Cell]:
    """Returns the winner of each budget, the most accurate of its cells on the searched split."""
    known = [(twin.user_attrs["accuracy"] if twin else -np.inf, cell) for cell, twin in twins.items()]
    found = [one for one in known if one[1].scorer.startswith(FOUND)]
    return {cell.keep: cell for _, cell in sorted(found, key=lambda one: one[0])}


def _mean_of_any(values: pd.Series, images: pd.Series) -> tuple[float, float, float]:
    """Returns the mean of unbounded values with its interval; the ends are NaN if all images agree."""
    return difference_interval(values, np.zeros(len(values)), images, half_range=np.inf)[:3]
