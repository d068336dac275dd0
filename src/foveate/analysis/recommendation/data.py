"""Data of a recommendation: the race, the confirmation, and the chosen setting in detail."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from foveate.analysis.cells import accuracy_of
from foveate.analysis.records import read_records
from foveate.analysis.statistics import difference_interval
from foveate.analysis.verdicts import paired_p
from foveate.studies.non_inferiority import images_needed, upper_bound
from foveate.studies.racing import Step
from foveate.studies.recommendation import SIMPLE, Recommendation

_SETTING = ("method", "budget", "tokens")
_NEAR = 1.1  # a simpler setting may cost this much more


class Simpler(NamedTuple):
    """A control that is not shown to lose more than the recommended setting, at about its cost.

    Attributes:
        method: Its name.
        budget: Its budget in equivalent tokens.
        difference: Points that it loses more, on the images of the race, with the ends of its 95 % interval.
    """

    method: str
    budget: int
    difference: tuple[float, float, float]


def setting_of(trial: FrozenTrial) -> dict[str, Any]:
    """Returns the columns method, budget and tokens of a trial."""
    family = trial.user_attrs["family"]
    return dict(zip(_SETTING, (family, trial.params["keep"], trial.user_attrs["tokens"]), strict=True))


def race_table(found: Recommendation) -> pd.DataFrame:
    """Returns one row per setting that ran, by falling tokens.

    Columns: method, budget, tokens, n, images, loss, low, high (share of the score, with its 95 % interval over the
    images that it answered), chance (to be confirmed) and left (why it left the race, or an empty string).
    """
    rows = []
    for trial in found.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        full, own = _paired(found, trial.user_attrs["run_id"], found.race.images[: trial.user_attrs["images"]])
        facts = {"chance": trial.user_attrs["chance"], "left": trial.user_attrs["stopped"]}
        rows.append(setting_of(trial) | _loss(full, own) | facts)
    columns = [*_SETTING, "n", "images", "loss", "low", "high", "chance", "left"]
    return pd.DataFrame(rows, columns=columns).sort_values(
        ["tokens", "loss"], ascending=[False, True], ignore_index=True
    )


def confirmation_table(found: Recommendation) -> pd.DataFrame:
    """Returns one row per setting that was to be confirmed, in the order of the tests.

    Columns: those of `race_table` without chance and left, on the images of the confirmation; cost (by the aim),
    accuracy with ci_low and ci_high, bound (the loss that is excluded at the plan's confidence), p and passed.
    """
    rows = []
    for step in found.steps:
        trial = found.trial(step.key)
        full, own = _paired(found, trial.user_attrs["run_id"], found.confirming)
        bound = upper_bound(step.losses, found.plan.confidence)
        facts = {"cost": found.costs[step.key], "bound": bound, "p": step.p, "passed": step.passed}
        rows.append(setting_of(trial) | accuracy_of(own) | _loss(full, own) | facts)
    return pd.DataFrame(rows)


def kinds_table(found: Recommendation, step: Step) -> pd.DataFrame:
    """Returns the loss of a setting by kind of question on the images of the confirmation, worst first.

    Columns: kind, n, images, loss, low, high.
    """
    full, own = _paired(found, found.trial(step.key).user_attrs["run_id"], found.confirming)
    rows = [{"kind": kind} | _loss(full[full["kind"] == kind], some) for kind, some in own.groupby("kind")]
    return pd.DataFrame(rows).sort_values("loss", ascending=False, ignore_index=True)


def full_accuracy(found: Recommendation) -> dict[str, float]:
    """Returns `accuracy_of` the uncompressed model on the images of the confirmation."""
    return accuracy_of(_paired(found, found.race.full, found.confirming)[0])


def simpler_setting(found: Recommendation, step: Step) -> Simpler | None:
    """Returns the first control of about the cost of a setting that is not shown to lose more in the race.

    Not shown means p >= 0.05 in a permutation test over images, without a correction: it is a reason to take the
    simpler one, not a finding.
    """
    trial = found.trial(step.key)
    if trial.user_attrs["family"] in SIMPLE:
        return None
    _, own = _paired(found, trial.user_attrs["run_id"], found.race.images)
    for name in SIMPLE:
        for other in _finished(found.study, name):
            if other.number in found.costs and found.costs[other.number] <= _NEAR * found.costs[step.key]:
                _, control = _paired(found, other.user_attrs["run_id"], found.race.images)
                images = own["image_id"]
                if paired_p(own["score"], control["score"], images) >= 0.05:
                    more = difference_interval(own["score"], control["score"], images)
                    return Simpler(name, other.params["keep"], (more.mean, more.low, more.high))
    return None


def needed(found: Recommendation) -> tuple[FrozenTrial, int] | None:
    """Returns the setting that loses least in the race, and how many images would confirm it, with those of the race.

    None if no setting loses less than is accepted.
    """
    trials = found.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    standard = found.race.standard
    able = [trial for trial in trials if trial.user_attrs["lost"] < standard.max_loss]
    if not able:
        return None
    best = min(able, key=lambda trial: trial.user_attrs["lost"])
    facts = best.user_attrs
    images = images_needed(standard.max_loss, standard.confidence, facts["spread"], max(facts["lost"], 0.0))
    return best, int(np.ceil(images / (1 - found.plan.race_share)))


def _finished(study: optuna.Study, family: str) -> list[FrozenTrial]:
    """Returns the trials of a family that finished the race, by rising tokens."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    own = [t for t in trials if t.user_attrs["family"] == family and not t.user_attrs["stopped"]]
    return sorted(own, key=lambda trial: trial.user_attrs["tokens"])


def _paired(found: Recommendation, run: str, images: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns the records of the uncompressed model and of a run on some images, aligned by question."""
    both = [_on(found.config.out, one, images) for one in (found.race.full, run)]
    shared = both[0].index.intersection(both[1].index)
    full, own = (records.loc[shared].reset_index() for records in both)
    return full, own


def _on(out: Path, run: str, images: Sequence[str]) -> pd.DataFrame:
    records = read_records(out, run)
    return records[records["image_id"].isin(list(images))].set_index("sample_id").sort_index()


def _loss(full: pd.DataFrame, own: pd.DataFrame) -> dict[str, float]:
    mean, low, high, n = difference_interval(full["score"], own["score"], own["image_id"])
    return {"n": n, "images": own["image_id"].nunique(), "loss": mean, "low": low, "high": high}
