"""Summary of several comparisons: mean ranks, shares retained and worst tasks over data sets and models."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import DegenerateDataWarning, bootstrap, rankdata

from foveate.analysis.cells import BUDGETLESS, Cell, image_caveat
from foveate.analysis.held_out import choosing_half
from foveate.analysis.statistics import RESAMPLES, ratio_interval
from foveate.core.budget import resolve_keep

EVERY = "all"
"""Name of the models together."""
_BATCH = 100  # bounds the memory at 100 x images
_DIGITS = 9  # accuracies that differ by rounding have one rank
_WORST = ("worst_retained", "worst_low", "worst_high")


class Task(NamedTuple):
    """One data set on one model.

    Attributes:
        data: Name of the data set.
        model: Name of the model.
        sums: Sum of the scores of each image, by method and budget; budgets as `budget_name` names them, "" for `full`
            and `blind`.
        counts: Number of questions about each image, in the order of `sums`.
        roles: Role of each method.
        caveat: Note that the model is no better with the image than without, or an empty string.
    """

    data: str
    model: str
    sums: Mapping[tuple[str, str], pd.Series]
    counts: pd.Series
    roles: Mapping[str, str]
    caveat: str


def budget_name(keep: int | float) -> str:
    """Returns the name of a budget in tables over models: a count, or a share in per cent."""
    return f"{100 * keep:.3g} %" if isinstance(keep, float) else str(keep)


def task_of(
    frames: Mapping[Cell, pd.DataFrame], roles: Mapping[str, str], names: tuple[str, str], budgets: Mapping[str, int]
) -> Task:
    """Returns the sums of a comparison that a summary needs.

    Args:
        frames: The records, as `read_cells` returns them.
        roles: Role of each method.
        names: Names of the data set and of the model.
        budgets: Requested budgets by name in patches of this model; others are named by their count.
    """
    known = set(budgets.values())
    wanted = dict(budgets) | {str(cell.keep): cell.keep for cell in frames if cell.keep not in known}
    sums = {}
    for cell, frame in frames.items():
        named = [""] if cell.family in BUDGETLESS else [name for name, keep in wanted.items() if keep == cell.keep]
        for name in named:
            sums[cell.family, name] = frame.groupby("image_id")["score"].sum()
    counts = next(iter(frames.values())).groupby("image_id").size()
    return Task(*names, sums, counts, roles, image_caveat(frames))


def budgets_on(keeps: Sequence[int | float], patches: int) -> dict[str, int]:
    """Returns requested budgets by name in patches of a model."""
    return {budget_name(keep): resolve_keep(keep, patches) for keep in keeps}


def tasks_table(tasks: Sequence[Task]) -> pd.DataFrame:
    """Returns one row per task: data, model, n, images, the accuracies full and blind (NaN without), and the caveat."""
    rows = []
    for task in tasks:
        n = int(task.counts.sum())
        row: dict[str, Any] = {"data": task.data, "model": task.model, "n": n, "images": len(task.counts)}
        row |= {name: task.sums[name, ""].sum() / n if (name, "") in task.sums else np.nan for name in BUDGETLESS}
        rows.append(row | {"caveat": task.caveat})
    return pd.DataFrame(rows)


def summary_table(tasks: Sequence[Task], seed: int = 0) -> pd.DataFrame:
    """Returns one row per model, budget and method, by model, then by falling budget, then by mean rank.

    The model "all" stands for all of them if there are several. A method has a row if it has a cell at this budget in
    every task of the model, so that all ranks of a row are ranks among the same methods; oracles, `full` and `blind`
    have none. `n` counts a question once, however many models were asked.

    Columns: model, budget, method, role, ranked (number of methods), tasks, n, images, mean_rank, rank_low, rank_high,
    retained, retained_low, retained_high, worst_data, worst_model, worst_n, worst_retained, worst_low, worst_high.
    Rank 1 is the highest accuracy, and equal ones share their mean rank. `retained` is the mean over the tasks of the
    accuracy divided by that of `full`; the tasks in which that is 0 are left out, NaN if none is left. The intervals
    are those of `resampled`. The worst task has the smallest share retained on one half of the images, and is reported
    on the other half with Fieller's interval over images (`ratio_interval`).

    Args:
        tasks: The tasks, every data set on every model.
        seed: Seed of the resampling.
    """
    models = list(dict.fromkeys(task.model for task in tasks))
    rows: list[dict[str, Any]] = []
    for model in [EVERY, *models] if len(models) > 1 else models:
        some = [task for task in tasks if model in (EVERY, task.model)]
        questions: dict[str, int] = {}
        for task in some:
            questions[task.data] = max(questions.get(task.data, 0), int(task.counts.sum()))
        size = {"tasks": len(some), "n": sum(questions.values())}
        size["images"] = sum(len(images) for images in _images(some).values())
        for budget, methods in shared(some):
            ranks, kept = resampled(some, methods, budget, seed)
            here = [
                {"model": model, "budget": budget, "method": name, "role": some[0].roles[name]}
                | {"ranked": len(methods), **size}
                | dict(zip(("mean_rank", "rank_low", "rank_high"), rank, strict=True))
                | dict(zip(("retained", "retained_low", "retained_high"), share, strict=True))
                | _worst(some, name, budget)
                for name, rank, share in zip(methods, ranks, kept, strict=True)
            ]
            rows += sorted(here, key=lambda row: row["mean_rank"])
    return pd.DataFrame(rows)


def shared(tasks: Sequence[Task]) -> Iterator[tuple[str, list[str]]]:
    """Yields the budgets that all tasks have, with the methods that have a cell at it in all of them."""
    cells = [column for column in tasks[0].sums if all(column in task.sums for task in tasks)]
    roles = tasks[0].roles
    for budget in dict.fromkeys(budget for _, budget in cells if budget):
        yield budget, [name for name, here in cells if here == budget and roles[name] != "oracle"]


def not_in_all(tasks: Sequence[Task]) -> dict[str, int]:
    """Returns the methods that have a cell in some tasks but in no budget in all of them, with the number of tasks."""
    ranked = {name for _, methods in shared(tasks) for name in methods}
    having: dict[str, int] = {}
    for task in tasks:
        for name in {name for name, budget in task.sums if budget and task.roles[name] != "oracle"} - ranked:
            having[name] = having.get(name, 0) + 1
    return dict(sorted(having.items()))


def resampled(
    tasks: Sequence[Task], methods: Sequence[str], budget: str, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean ranks and mean shares retained with 95 % percentile intervals of a bootstrap in two stages.

    A resample draws as many data sets as there are, with replacement, and within each as many images as it has. All
    models see the same draws, because they were asked about the same images, and are not drawn themselves. With a
    single data set only its images are drawn.

    Args:
        tasks: Every data set on every model.
        methods: The methods.
        budget: Name of the budget.
        seed: Seed of the resampling.

    Returns:
        Two arrays (method, 3): means and the ends of their intervals, NaN where all resamples agree.
    """
    images, rng = _images(tasks), np.random.default_rng(seed)
    found, drawn = [], []
    for data, names in images.items():
        here = [task for task in tasks if task.data == data]
        scores, counts = _arrays(here, methods, budget, names)
        known = scores[:, -1].sum(-1) > 0  # (model)
        found.append(_numbers(scores, counts, np.ones((1, len(names))), known)[0])
        batches = [
            rng.multinomial(len(names), np.full(len(names), 1 / len(names)), _BATCH) for _ in range(RESAMPLES // _BATCH)
        ]
        drawn.append(np.concatenate([_numbers(scores, counts, batch, known) for batch in batches]))
    values = _over_data(np.stack(drawn), rng)
    means = np.array([_mean(column) for column in np.stack(found).T])
    low, high = (np.array([_quantile(row, q) for row in values]) for q in (0.025, 0.975))
    low, high = (np.where(high - low < 1e-12, np.nan, end) for end in (low, high))
    table = np.stack([means, low, high], 1)
    return table[: len(methods)], table[len(methods) :]


def _over_data(drawn: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns (number, resample) means over resampled data sets.

    Args:
        drawn: (data set, resample, number) numbers of resampled images.
        rng: Source of the draws.
    """
    if len(drawn) == 1:
        return drawn[0].T

    def mean(chosen: np.ndarray, axis: int = -1) -> np.ndarray:
        picked = drawn[chosen, rng.integers(0, drawn.shape[1], chosen.shape)]  # (resample, data set, number)
        known = ~np.isnan(picked)
        sums, counts = np.where(known, picked, 0).sum(-2), known.sum(-2)
        return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0).T

    data = (np.arange(len(drawn)),)
    how: dict[str, Any] = {"vectorized": True, "method": "percentile", "batch": _BATCH, "rng": rng}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # of its own interval, if a resample has no number
        result: Any = bootstrap(data, mean, n_resamples=RESAMPLES, **how)
    return np.asarray(result.bootstrap_distribution)


def _numbers(scores: np.ndarray, counts: np.ndarray, weights: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Returns (resample, 2 x method): ranks, and shares retained, as means over models.

    Args:
        scores: (model, method and then `full`, image) sums of scores.
        counts: (model, image) numbers of questions.
        weights: (resample, image) how often an image was drawn.
        known: (model) whether `full` has a correct answer.
    """
    accuracy = np.einsum("tmi,bi->btm", scores, weights, optimize=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        accuracy = (accuracy / np.einsum("ti,bi->bt", counts, weights)[..., None]).round(_DIGITS)
        share = accuracy[..., :-1] / accuracy[..., -1:]
    ranks = rankdata(-accuracy[..., :-1], axis=-1).mean(1)
    share = np.where(np.isfinite(share), share, np.nan)[:, known]
    return np.concatenate([ranks, share.mean(1) if known.any() else np.full(ranks.shape, np.nan)], 1)


def _arrays(
    tasks: Sequence[Task], methods: Sequence[str], budget: str, images: pd.Index
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (model, method and then `full`, image) sums of scores, and (model, image) numbers of questions."""

    def aligned(values: pd.Series) -> np.ndarray:
        return values.reindex(images, fill_value=0).to_numpy(float)

    cells = [*((name, budget) for name in methods), ("full", "")]
    sums = np.array([[aligned(task.sums[cell]) for cell in cells] for task in tasks])
    return sums, np.stack([aligned(task.counts) for task in tasks])


def _images(tasks: Sequence[Task]) -> dict[str, pd.Index]:
    """Returns the images of each data set; a model may have failed on some."""
    found: dict[str, pd.Index] = {}
    for task in tasks:
        found[task.data] = found.get(task.data, task.counts.index).union(task.counts.index)
    return found


def _worst(tasks: Sequence[Task], method: str, budget: str) -> dict[str, Any]:
    """Returns the columns of the worst task of a method."""
    shares, others = {}, {}
    for number, task in enumerate(tasks):
        half = choosing_half(task.counts.index)
        own, full = (task.sums[column].to_numpy(float) for column in ((method, budget), ("full", "")))
        if full[half].sum() > 0:
            shares[number] = own[half].sum() / full[half].sum()
            others[number] = own[~half], full[~half], task.counts[~half]
    if not shares:
        return {"worst_data": "", "worst_model": "", "worst_n": 0} | dict.fromkeys(_WORST, np.nan)
    worst = min(shares, key=shares.__getitem__)
    own, full, counts = others[worst]
    found = ratio_interval(own, full, counts.index)
    named = {"worst_data": tasks[worst].data, "worst_model": tasks[worst].model, "worst_n": int(counts.sum())}
    return named | dict(zip(_WORST, found[:3], strict=True))


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan


def _quantile(values: np.ndarray, share: float) -> float:
    known = values[~np.isnan(values)]
    return float(np.quantile(known, share)) if len(known) else np.nan
