"""From a search to numbers: what was tried, what was saved, what mattered, what its proxy foretold."""

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

from analysis.ranks import Correlation, correlation
from analysis.records import read_records
from analysis.statistics import mean_interval

FEW, STEADY = 10, 50  # trials: below the one importance is not told, below the other its best tenth is under 5 trials
_COLUMNS = (
    *("label", "family", "layers", "n", "stopped", "accuracy", "quality", "tokens", "evidence_recall", "agreement"),
    *("accuracy_loss", "run_id", "weights"),
)


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
    """How the proxy's agreement, and kept evidence, go with what trials measured.

    Attributes:
        trials: An even sample of the space's prior, evaluated in full; columns agreement, accuracy, quality,
            evidence_recall, tokens, label; one row per compressor.
        correlations: Spearman's, by signal (agreement, evidence_recall where it is known) and measure (accuracy,
            quality); a bootstrap over trials.
    """

    trials: pd.DataFrame
    correlations: dict[tuple[str, str], Correlation]


class Importance(NamedTuple):
    """Of every dimension for one goal, and on how many trials that rests.

    Attributes:
        goal: The goal.
        shares: By parameter, falling, of sum 1; empty where the trials do not tell.
        trials: Complete trials.
        rests: By parameter: trials that have it.
        why: Why the trials do not tell, or why little can be made of it; empty otherwise.
    """

    goal: str
    shares: dict[str, float]
    trials: int
    rests: dict[str, int]
    why: str


def trials_of(study: optuna.Study) -> list[FrozenTrial]:
    """The complete trials, those that were stopped early among them."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def whole_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The complete trials that answered all questions."""
    return [trial for trial in trials_of(study) if not trial.user_attrs.get("stopped")]


def feasible(trial: FrozenTrial) -> bool:
    """Whether a trial keeps its constraints, if it has any."""
    return all(value <= 0 for value in trial.constraints.values())


def trials_table(study: optuna.Study) -> pd.DataFrame:
    """One row per complete trial: number, source, label, what was measured, values, weights and parameters.

    A parameter that is called like another column stands as `param_<name>`.
    """
    rows: list[dict[str, Any]] = []
    for trial in trials_of(study):
        row = {"number": trial.number, "source": trial.user_attrs.get("source", "sampler")}
        row |= {name: trial.user_attrs.get(name) for name in _COLUMNS}
        row |= dict(zip((f"value_{goal}" for goal in study.user_attrs["goals"]), trial.values, strict=True))
        rows.append(row | {f"param_{name}" if name in row else name: value for name, value in trial.params.items()})
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["number", "source", *_COLUMNS])


def saving_data(study: optuna.Study) -> Saving:
    """A compressor that several trials suggested is evaluated once, as far as the one that came furthest."""
    runs = trials_table(study).groupby("run_id")
    answered, stopped = runs["n"].max(), runs["stopped"].agg(lambda why: all(map(bool, why)))
    return Saving(len(answered), int(stopped.sum()), int(answered.sum()), len(answered) * study.user_attrs["samples"])


def history_data(study: optuna.Study) -> pd.DataFrame:
    """One row per goal and complete trial: goal, number, source, value, stopped, feasible, best.

    `best` is the best value of this goal so far among trials that keep the constraint and were evaluated in full; NaN
    before the first.
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
    """PED-ANOVA (Watanabe et al. 2023, arXiv 2304.10255), Optuna's default, of every goal.

    What tells the best tenth of the complete trials from the others, whether or not they keep the constraint. A
    parameter that only some trials have is judged on those.
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
            sign = 1 if direction.name == "MINIMIZE" else -1  # with a target, low is better whatever the direction
            shares = _importances(study, lambda trial, number=number, sign=sign: sign * trial.values[number])
            why = "" if len(trials) >= STEADY else f"under {STEADY} trials, so unsteady"
        found.append(Importance(goal, shares, len(trials), dict(rests), why))
    return found


def proxy_data(study: optuna.Study, seed: int = 0) -> Proxy | None:
    """None with fewer than 4 trials from all over the ranking; see `Proxy`."""
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
    """Weight of every layer, of sum 1: the winners, the ten best that were not stopped, default and uniform ensemble.

    The best are so by the first goal, and keep the constraint. Columns: layer, weight, who ("winner", "among the ten
    best", "published default", "uniform ensemble"), trial.
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
            {"layer": layer, "weight": weight / sum(weights), "who": who, "trial": number}
            for who, number, weights in lines
            for layer, weight in enumerate(weights)
        ]
    )


def singles_data(study: optuna.Study, out: Path) -> pd.DataFrame:
    """Accuracy of every planned single layer on the searched split: layer, accuracy, ci_low, ci_high, n, images."""
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
        warnings.simplefilter("ignore")  # that low is better, and that some parameters rest on few trials: both told
        shares = get_param_importances(study, target=target, normalize=False)
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()} if total > 0 else {}
