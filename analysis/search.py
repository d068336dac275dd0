"""From a search and the study that confirms its winner to numbers: what was tried, what was saved, what holds."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import optuna
import pandas as pd
from optuna.importance import get_param_importances
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import bootstrap, permutation_test, spearmanr

from analysis.ablation import Cell, cells_of, read_cells
from analysis.records import read_records
from analysis.statistics import RESAMPLES, Interval, difference_interval, holm, mean_interval, paired_p

BASELINES = ("best single layer", "uniform ensemble", "published default", "random", "uniform", "pool", "downsample")
_FOUND = ("winner", "front ")


class Saving(NamedTuple):
    """What early stopping saved.

    Attributes:
        trials: Different compressors that were evaluated; equal ones share their records.
        stopped: Of them ended early.
        answered: Questions that they answered.
        full: Questions that all would have answered.
    """

    trials: int
    stopped: int
    answered: int
    full: int


class Proxy(NamedTuple):
    """How the first rung's agreement goes with accuracy, over trials that are an even sample of the space's prior.

    Attributes:
        trials: Columns agreement, accuracy, quality, evidence_recall, label; one row per different compressor.
        rho: Spearman's rank correlation of agreement and accuracy.
        low: Lower end of its 95 % interval.
        high: Upper end.
        p: Two-sided, by permutation.
        evidence_rho: The same correlation of the kept evidence.
    """

    trials: pd.DataFrame
    rho: float
    low: float
    high: float
    p: float
    evidence_rho: float


class Importance(NamedTuple):
    """Of every dimension for one goal, and on how many trials that rests.

    Attributes:
        goal: The goal.
        shares: By parameter, falling, of sum 1; empty where the trials do not tell.
        trials: Complete trials.
    """

    goal: str
    shares: dict[str, float]
    trials: int


def trials_of(study: optuna.Study) -> list[FrozenTrial]:
    """The complete trials, those that were stopped early among them."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def trials_table(study: optuna.Study) -> pd.DataFrame:
    """One row per complete trial: number, source, label, what was measured, values and parameters."""
    names = ("label", "family", "layers", "n", "stopped", "accuracy", "quality", "tokens", "evidence_recall", "run_id")
    rows = []
    for trial in trials_of(study):
        row = {"number": trial.number, "source": trial.user_attrs.get("source", "sampler")}
        row |= {name: trial.user_attrs.get(name) for name in names}
        row |= dict(zip((f"value_{goal}" for goal in study.user_attrs["goals"]), trial.values, strict=True))
        rows.append(row | trial.params)
    return pd.DataFrame(rows)


def saving_data(study: optuna.Study) -> Saving:
    """A compressor that several trials suggested is evaluated once, as far as the one that came furthest."""
    runs = trials_table(study).groupby("run_id")
    answered, stopped = runs["n"].max(), runs["stopped"].agg(lambda why: all(map(bool, why)))
    return Saving(len(answered), int(stopped.sum()), int(answered.sum()), len(answered) * study.user_attrs["samples"])


def importance_data(study: optuna.Study) -> list[Importance]:
    """PED-ANOVA (Watanabe et al. 2023, arXiv 2304.10255), Optuna's default, of every goal.

    A parameter that only some trials have is judged on those.
    """
    found = []
    for number, goal in enumerate(study.user_attrs["goals"]):
        target = (lambda trial, number=number: trial.values[number]) if len(study.directions) > 1 else None
        try:
            shares = get_param_importances(study, target=target)
        except (ValueError, RuntimeError):  # too few trials, or all have the same value
            shares = {}
        total = sum(shares.values())
        shares = {name: share / total for name, share in shares.items()} if total > 0 else {}
        found.append(Importance(goal, shares, len(trials_of(study))))
    return found


def proxy_data(study: optuna.Study, seed: int = 0) -> Proxy | None:
    """None without a first rung; see `Proxy`. The interval is a bootstrap over trials."""
    rows = trials_table(study)
    rows = rows[rows["source"] == "spaced"].drop_duplicates("run_id")
    agreement = {trial.number: trial.user_attrs.get("agreement") for trial in trials_of(study)}
    rows = rows.assign(agreement=rows["number"].map(agreement).astype(float))
    if len(rows) < 4:
        return None
    pair = rows["agreement"].to_numpy(), rows["accuracy"].to_numpy()
    rng = np.random.default_rng(seed)
    result = bootstrap(pair, _rho, paired=True, vectorized=False, n_resamples=RESAMPLES, method="percentile", rng=rng)
    low, high = result.confidence_interval
    p = permutation_test(pair, _rho, permutation_type="pairings", n_resamples=9999, rng=rng).pvalue
    known = rows["evidence_recall"].notna().all()
    evidence = _rho(rows["evidence_recall"].to_numpy(), pair[1]) if known else np.nan
    columns = ["agreement", "accuracy", "quality", "evidence_recall", "label"]
    return Proxy(rows[columns], _rho(*pair), float(low), float(high), float(p), evidence)


def weights_data(study: optuna.Study, winners: list[FrozenTrial]) -> pd.DataFrame:
    """Weight of every layer, of sum 1: the winners, the ten best that were not stopped, default and uniform ensemble.

    Columns: layer, weight, who ("winner", "among the ten best", "published default", "uniform ensemble"), trial.
    """
    depth, start = study.user_attrs["depth"], study.user_attrs["default_start"]
    default = [float(start <= i <= study.user_attrs["feature_layer"]) for i in range(depth)]
    lines = [("uniform ensemble", -2, [1.0] * depth), ("published default", -1, default)]
    sign = 1 if study.directions[0].name == "MINIMIZE" else -1
    whole = [t for t in trials_of(study) if t.user_attrs["weights"] and not t.user_attrs["stopped"]]
    best = {t.user_attrs["run_id"]: t for t in sorted(whole, key=lambda t: -sign * t.values[0])}
    ten = sorted(best.values(), key=lambda t: sign * t.values[0])[:10]
    lines += [("among the ten best", t.number, t.user_attrs["weights"]) for t in ten]
    lines += [("winner", t.number, t.user_attrs["weights"]) for t in winners if t.user_attrs["weights"]]
    return pd.DataFrame(
        [
            {"layer": layer, "weight": weight / sum(weights), "who": who, "trial": number}
            for who, number, weights in lines
            for layer, weight in enumerate(weights)
        ]
    )


def confirmed_table(study: optuna.Study, test: optuna.Study, out: Path) -> pd.DataFrame:
    """One row per winner, baseline and control on the confirming split, by falling budget.

    Columns: scorer, keep, n, images, accuracy and log-probability with intervals, what the winner of that budget gains
    over the row (paired by question, bootstrap over images, sign-flip p, Holm-corrected over the table), and optimism:
    accuracy of the same compressor on the searched split minus this one, with the interval of a difference between two
    independent samples of images; NaN where the search did not evaluate it.
    """
    frames = read_cells(cells_of(test), out, lambda records: {"log_probability": records["log_probability"].to_numpy()})
    winner = {cell.keep: frame for cell, frame in frames.items() if cell.scorer.startswith(_FOUND)}
    searched = {t.user_attrs["compressor"]: t for t in trials_of(study) if not t.user_attrs["stopped"]}
    evaluated = {(t.params["scorer"], t.params["keep"]): t.user_attrs["compressor"] for t in trials_of(test)}
    rows = []
    for cell, frame in frames.items():
        twin = searched.get(evaluated.get((cell.scorer, cell.keep), ""))
        rows.append(_row(cell, frame, winner.get(cell.keep), twin, out))
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p_holm"])
    order = {name: i for i, name in enumerate(("full", *BASELINES))}
    rank = [-1 if cell.scorer.startswith(_FOUND) else order.get(cell.scorer, len(order)) for cell in frames]
    return table.assign(rank=rank).sort_values(["keep", "rank"], ascending=[False, True]).drop(columns="rank")


def optimism(searched: pd.DataFrame, confirmed: pd.DataFrame, seed: int = 0) -> Interval:
    """Mean score on the searched split minus that on the other, pictures weighing equally, with a 95 % interval.

    The splits hold different pictures, so each side is resampled on its own.
    """
    sides = [frame.groupby("image_id")["score"].mean().to_numpy() for frame in (searched, confirmed)]

    def difference(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return a.mean(axis) - b.mean(axis)

    rng = np.random.default_rng(seed)
    low, high = bootstrap(sides, difference, n_resamples=RESAMPLES, method="percentile", rng=rng).confidence_interval
    return Interval(float(difference(*sides)), float(low), float(high), len(confirmed))


def _row(cell: Cell, frame: pd.DataFrame, winner: pd.DataFrame | None, twin: FrozenTrial | None, out: Path) -> dict:
    images = frame["image_id"]
    mean, low, high, n = mean_interval(frame["score"], images)
    likely = _mean_of_any(frame["log_probability"].to_numpy(), images)
    row = {"scorer": cell.scorer, "family": cell.family, "keep": cell.keep, "n": n, "images": images.nunique()}
    row |= {"seeds": frame["seeds"].iloc[0], "accuracy": mean, "ci_low": low, "ci_high": high}
    row |= dict(zip(("log_probability", "log_low", "log_high"), likely, strict=True))
    gain, p = (np.nan,) * 3, np.nan
    if winner is not None and winner is not frame:
        gain = difference_interval(winner["score"], frame["score"], images)[:3]
        p = paired_p(winner["score"], frame["score"], images)
    row |= dict(zip(("winner_gains", "gain_low", "gain_high"), gain, strict=True)) | {"p_holm": p}
    told = (np.nan,) * 3 if twin is None else optimism(read_records(out, twin.user_attrs["run_id"]), frame)[:3]
    return row | dict(zip(("optimism", "optimism_low", "optimism_high"), told, strict=True))


def _mean_of_any(values: np.ndarray, images: pd.Series) -> tuple[float, float, float]:
    """A mean of unbounded values with its interval: the difference from 0 is resampled like any other."""
    mean, low, high, _ = difference_interval(values, np.zeros_like(values), images)
    return mean, low, high


def _rho(a: np.ndarray, b: np.ndarray) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a, b)[0])  # type: ignore[arg-type]
