"""When a trial has answered enough questions to be given up.

A trial with one goal that is measured per question is stopped by Optuna's `WilcoxonPruner`. Optuna prunes neither
trials with several goals nor for a constraint; there the rule is an optimistic bound: with d_i the mean paired gain
over another trial in the questions about image i, the trial can hardly gain more than

    u = mean(d) + t(n - 1, 1 - P) * sd(d) / sqrt(n)

(the upper end of a one-sided t interval). It is stopped when for a member of the Pareto front u <= 0 in every goal and
u < 0 in one, or when even the optimistic loss against the uncompressed model exceeds the constraint. Because the bound
is looked at after every batch, P is small, and nothing is stopped before `STARTUP` images.

A stopped trial is a complete one whose values are those of the trial that it lost against, plus the mean paired gain,
which is negative: an estimate that does not depend on how hard the answered questions were, and never the best one. A
trial whose mean is not worse is not stopped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from optuna import Trial
from scipy import stats

from foveate.compressors import Identity
from foveate.evaluation import evaluate
from foveate.evaluation.records import RecordFolder
from foveate.evaluation.run import data_of
from foveate.studies.goals import Gain, by_image, gain, mean_of
from foveate.studies.plan import Goal

if TYPE_CHECKING:  # which imports this module
    from foveate.studies.objective import Objective

P = 0.01
STARTUP = 32  # images


class Rival(NamedTuple):
    """A finished trial to compare with.

    Attributes:
        number: Of the trial.
        records: Its records.
        attributes: Its user attributes.
    """

    number: int
    records: pa.Table
    attributes: Mapping[str, float]


def optimistic(images: np.ndarray) -> float:
    """Upper end of the one-sided interval of the mean gain at level `P`; infinite before `STARTUP` images."""
    if len(images) < STARTUP:
        return np.inf
    spread = stats.sem(images)
    return float(images.mean() + (stats.t.ppf(1 - P, len(images) - 1) * spread if spread else 0.0))


def dominated(gains: Sequence[Gain | float]) -> bool:
    """Whether the other trial is at least as good in every goal and better in one, even seen optimistically.

    Args:
        gains: One per goal; a number is exact, as a measured latency.
    """
    bounds = [optimistic(g.images) if isinstance(g, Gain) else g for g in gains]
    means = [g.mean if isinstance(g, Gain) else g for g in gains]
    return all(bound <= 0 for bound in bounds) and min(bounds) < 0 and all(mean <= 0 for mean in means)


def corrected(rival: Rival, gains: Mapping[Goal, Gain]) -> dict[str, float]:
    """What a stopped trial would have measured on all questions, by goal."""
    signs = {"quality": 1, "accuracy": 1, "tokens": -1}
    return {str(goal): rival.attributes[goal] + signs[goal] * one.mean for goal, one in gains.items()}


MEASURED: tuple[Goal, ...] = ("accuracy", "quality", "tokens")


NEVER_STOPPED = ("default", "ensemble", "single", "spaced")  # sources whose results the report rests on


class EarlyStopping:
    """Whether a running trial may still become one of the best.

    Attributes:
        lost: Why it cannot; empty while it can.
        estimated: What it would have measured, once it is stopped.
    """

    def __init__(self, objective: "Objective", trial: Trial, latency: float | None) -> None:
        self.objective, self.trial, self.latency = objective, trial, latency
        self.lost, self.estimated = "", {}
        self.source = trial.user_attrs.get("source", "sampler")
        self._reported: set[str] = set()
        config = objective.config
        samples, _ = data_of(config.data, config.split, config.limit, config.seed)
        self._steps = {image: step for step, image in enumerate(dict.fromkeys(sample.image_id for sample in samples))}
        self._questions = len(samples)
        if objective.max_loss is not None:
            self.full  # noqa: B018 (is evaluated now: none can begin within another one)

    @property
    def full(self) -> Rival:
        """The uncompressed model."""
        records = evaluate(replace(self.objective.config, compressor=Identity())).read()
        return Rival(-1, records, {goal: mean_of(records, goal) for goal in MEASURED})

    def gone(self, records: pa.Table) -> bool:
        """Looks at all records so far."""
        self.report(records)
        if self.source in NEVER_STOPPED or records.num_rows >= self._questions:
            return False
        if self.objective.max_loss is not None and self._infeasible(records):
            return True
        return self._worse(records) if self.objective.pruned else self._dominated(records)

    def report(self, records: pa.Table) -> None:
        """Tells the pruner what it does not know yet, image by image."""
        if not self.objective.pruned:
            return
        for image, value in by_image(records, self.objective.goals[0]).items():
            if image not in self._reported:
                self.trial.report(value, self._steps[image])  # the same step for the same image in every trial
                self._reported.add(image)

    def _worse(self, records: pa.Table) -> bool:
        if not self.trial.should_prune():
            return False
        rival = self._rival(self.trial.study.best_trial)
        gains = self._gains(records, rival)
        return gains[self.objective.goals[0]].mean < 0 and self._give_up("WilcoxonPruner", rival, gains)

    def _infeasible(self, records: pa.Table) -> bool:
        full, limit = self.full, self.objective.max_loss or 0.0
        gains = self._gains(records, full)
        lost = 100 * optimistic(gains["accuracy"].images) < -limit and 100 * gains["accuracy"].mean < -limit
        return lost and self._give_up(f"loses more than {limit:g} points of accuracy", full, gains)

    def _dominated(self, records: pa.Table) -> bool:
        if len(set(records["image_id"].to_pylist())) < STARTUP:
            return False
        for front in self.trial.study.best_trials:
            if front.user_attrs.get("stopped"):
                continue
            rival = self._rival(front)
            gains = self._gains(records, rival)
            if dominated([self._gain(goal, gains, rival) for goal in self.objective.goals]):
                return self._give_up("dominated, optimistically seen,", rival, gains)
        return False

    def _gain(self, goal: Goal, gains: dict[Goal, Gain], rival: Rival) -> Gain | float:
        return gains[goal] if goal in gains else rival.attributes[goal] - (self.latency or 0.0)

    def _gains(self, records: pa.Table, rival: Rival) -> dict[Goal, Gain]:
        return {goal: gain(records, rival.records, goal) for goal in MEASURED}

    def _rival(self, frozen: Any) -> Rival:  # noqa: ANN401 (Optuna's FrozenTrial)
        folder = RecordFolder(self.objective.config.out / "records" / frozen.user_attrs["run_id"])
        return Rival(frozen.number, folder.read(), frozen.user_attrs)

    def _give_up(self, why: str, rival: Rival, gains: dict[Goal, Gain]) -> bool:
        images = len(next(iter(gains.values())).images)
        against = "the uncompressed model" if rival.number < 0 else f"trial {rival.number}"
        self.lost = f"{why} against {against} after {images} images"
        self.estimated = corrected(rival, gains)
        return True
