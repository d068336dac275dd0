"""Data of a search: trials, early stopping, importance of dimensions, weights and the proxy."""

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd
from optuna.importance import get_param_importances
from optuna.trial import FrozenTrial, TrialState

from foveate.analysis.records import read_records
from foveate.analysis.statistics import Correlation, correlation, mean_interval

FEW, STEADY = 10, 50  # trials needed for importances, and for a best tenth of at least 5 trials
_COLUMNS = (
    *("label", "family", "layers", "n", "stopped", "accuracy", "quality", "tokens", "evidence_recall", "agreement"),
    *("accuracy_loss", "run_id", "weights"),
)


class Saving(NamedTuple):
    """Questions that early stopping saved.

    Attributes:
        trials: Number of different compressors; equal ones share their records.
        stopped: Number of compressors that were stopped early.
        answered: Number of answered questions.
        full: Number of questions without early stopping.
    """

    trials: int
    stopped: int
    answered: int
    full: int


class Proxy(NamedTuple):
    """Rank correlations of the proxy's agreement, and of kept evidence, with the measures of trials.

    Attributes:
        trials: An even sample of the space's prior, evaluated in full, one row per compressor; columns agreement,
            accuracy, quality, evidence_recall, tokens, label.
        correlations: Spearman's rank correlation, by signal (agreement, evidence_recall where known) and measure
            (accuracy, quality), with a bootstrap over trials.
    """

    trials: pd.DataFrame
    correlations: dict[tuple[str, str], Correlation]


class Importance(NamedTuple):
    """Importance of every dimension for one goal.

    Attributes:
        goal: The goal.
        shares: Share of each parameter in falling order, with sum 1; empty if the trials do not determine it.
        trials: Number of complete trials.
        rests: Number of trials that have a parameter, by parameter.
        why: Reason why importances are missing or uncertain, or an empty string.
    """

    goal: str
    shares: dict[str, float]
    trials: int
    rests: dict[str, int]
    why: str


def trials_of(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the complete trials, including those that were stopped early."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def whole_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the complete trials that answered all questions."""
    return [trial for trial in trials_of(study) if not trial.user_attrs.get("stopped")]


def feasible(trial: FrozenTrial) -> bool:
    """Returns whether a trial satisfies its constraints, if it has any."""
    return all(value <= 0 for value in trial.constraints.values())


def trials_table(study: optuna.Study) -> pd.DataFrame:
    """Returns one row per complete trial: number, source, label, measures, values, weights and parameters.

    The column of a parameter whose name is already used is called `param_<name>`.
    """
    rows: list[dict[str, Any]] = []
    for trial in trials_of(study):
        row = {"number": trial.number, "source": trial.user_attrs.get("source", "sampler")}
        row |= {name: trial.user_attrs.get(name) for name in _COLUMNS}
        row |= dict(zip((f"value_{goal}" for goal in study.user_attrs["goals"]), trial.values, strict=True))
        rows.append(row | {f"param_{name}" if name in row else name: value for name, value in trial.params.items()})
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["number", "source", *_COLUMNS])


def saving_data(study: optuna.Study) -> Saving:
    """Returns the questions that early stopping saved; equal compressors count once, by their longest run."""
    runs = trials_table(study).groupby("run_id")
    answered, stopped = runs["n"].max(), runs["stopped"].agg(lambda why: all(map(bool, why)))
    return Saving(len(answered), int(stopped.sum()), int(answered.sum()), len(answered) * study.user_attrs["samples"])


def history_data(study: optuna.Study) -> pd.DataFrame:
    """Returns one row per goal and complete trial: goal, number, source, value, stopped, feasible, best.

    `best` is the best value so far among feasible trials that were evaluated in full; NaN before the first.
    """
    rows, trials = [], trials_of(study)
    for index, (goal, direction) in enumerate(zip(study.user_attrs["goals"], study.directions, strict=True)):
        better, best = (min if direction.name == "MINIMIZE" else max), np.nan
        for trial in trials:
            value, stopped = trial.values[index], bool(trial.user_attrs.get("stopped"))
            if feasible(trial) and not stopped:
                best = value if np.isnan(best) else better(best, value)
            row = {"goal": goal, "number": trial.number, "source": trial.user_attrs.get("source", "sampler")}
            rows.append(row | {"value": value, "stopped": stopped, "feasible": feasible(trial), "best": best})
    return pd.DataFrame(rows)


def importance_data(study: optuna.Study) -> list[Importance]:
    """Returns the importances of every goal by PED-ANOVA, Optuna's default.

    PED-ANOVA measures how the best tenth of the complete trials differs from all, feasible or not. A parameter that
    only some trials have is judged on those. Source: Watanabe et al. 2023 (arXiv 2304.10255).
    """
    trials, found = trials_of(study), []
    rests = Counter(name for trial in trials for name in trial.params)
    for number, (goal, direction) in enumerate(zip(study.user_attrs["goals"], study.directions, strict=True)):
        shares, why = {}, ""
        if len(trials) < FEW:
            why = f"{len(trials)} trials are too few"
        elif len({trial.values[number] for trial in trials}) == 1:
            why = "all trials have the same value"
        else:
            sign = 1 if direction.name == "MINIMIZE" else -1  # PED-ANOVA minimizes a target whatever the direction
            shares = _importances(study, lambda trial, number=number, sign=sign: sign * trial.values[number])
            why = "" if len(trials) >= STEADY else f"uncertain, under {STEADY} trials"
        found.append(Importance(goal, shares, len(trials), dict(rests), why))
    return found


def proxy_data(study: optuna.Study, seed: int = 0) -> Proxy | None:
    """Returns the correlations of the proxy, or None with fewer than 4 trials of the even sample."""
    rows = trials_table(study)
    rows = rows[rows["source"] == "spaced"].dropna(subset="agreement").drop_duplicates("run_id")
    if len(rows) < 4:
        return None
    numbers = rows[["agreement", "accuracy", "quality", "evidence_recall", "tokens"]].astype(float)
    found = {
        (signal, measure): correlation(numbers[signal].to_numpy(), numbers[measure].to_numpy(), seed)
        for signal in ("agreement", "evidence_recall")
        for measure in ("accuracy", "quality")
        if numbers[signal].notna().all()
    }
    return Proxy(numbers.assign(label=rows["label"]), found)


def weights_data(study: optuna.Study, winners: list[FrozenTrial]) -> pd.DataFrame:
    """Returns the weights of the layers, with sum 1, of winners, the ten best trials and the two baselines.

    The ten best are feasible trials by the first goal that were not stopped. Columns: layer, weight, role ("winner",
    "among the ten best", "published default", "uniform ensemble"), trial.
    """
    depth, start = study.user_attrs["depth"], study.user_attrs["default_start"]
    default = [float(start <= i <= study.user_attrs["feature_layer"]) for i in range(depth)]
    lines = [("uniform ensemble", -2, [1.0] * depth), ("published default", -1, default)]
    sign = 1 if study.directions[0].name == "MINIMIZE" else -1
    whole = [t for t in whole_trials(study) if t.user_attrs["weights"] and feasible(t)]
    best = {t.user_attrs["run_id"]: t for t in sorted(whole, key=lambda t: -sign * t.values[0])}
    ten = sorted(best.values(), key=lambda t: sign * t.values[0])[:10]
    lines += [("among the ten best", t.number, t.user_attrs["weights"]) for t in ten]
    lines += [("winner", t.number, t.user_attrs["weights"]) for t in winners if t.user_attrs["weights"]]
    return pd.DataFrame(
        [
            {"layer": layer, "weight": weight / sum(weights), "role": role, "trial": number}
            for role, number, weights in lines
            for layer, weight in enumerate(weights)
        ]
    )


def singles_data(study: optuna.Study, out: Path) -> pd.DataFrame:
    """Returns the accuracy of single layers on the searched split: layer, accuracy, ci_low, ci_high, n, images."""
    rows = []
    for trial in whole_trials(study):
        if trial.user_attrs.get("source") == "single":
            frame = read_records(out, trial.user_attrs["run_id"])
            mean, low, high, n = mean_interval(frame["score"], frame["image_id"])
            row = {"layer": int(trial.user_attrs["layers"]), "accuracy": mean, "ci_low": low, "ci_high": high}
            rows.append(row | {"n": n, "images": frame["image_id"].nunique()})
    columns = ["layer", "accuracy", "ci_low", "ci_high", "n", "images"]
    return pd.DataFrame(rows, columns=columns).sort_values("layer", ignore_index=True)


def _importances(study: optuna.Study, target: Callable[[FrozenTrial], float]) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the direction, and parameters of few trials: `rests` has them
        shares = get_param_importances(study, target=target, normalize=False)
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()} if total > 0 else {}
