"""The one objective of grids and searches: evaluate what a trial suggests, and note what was measured."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
from optuna import Trial, TrialPruned
from optuna.trial import FixedTrial, FrozenTrial

from foveate.compression import Compressor, Identity
from foveate.core.errors import BudgetError
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.identity import identity_of
from foveate.evaluation.latency import latency_ms
from foveate.evaluation.records import RecordFolder
from foveate.evaluation.run import cached_load, data_of
from foveate.settings import suited
from foveate.studies.goals import Gain, by_image, gain, mean_of
from foveate.studies.notes import note
from foveate.studies.plan import Goal
from foveate.studies.spaces import AnyTrial, Proposal, Space
from foveate.studies.stopping import STARTUP, Rival, corrected, dominated, optimistic

MEASURED: tuple[Goal, ...] = ("accuracy", "quality", "tokens")
Draw = Callable[[EvalConfig, pa.Table], bytes]
"""Makes the picture of what a trial kept, from its configuration and records, as PNG."""
NEVER_STOPPED = ("default", "ensemble", "single", "spaced")  # sources whose results the report rests on


@dataclass(frozen=True)
class Objective:
    """Evaluates the compressor that a trial suggests; what was measured becomes trial attributes.

    A trial whose choice cannot have its budget is pruned; its attribute `left_out` says why. `stopping` says how
    hopeless ones end early.

    Attributes:
        config: Everything but the compressor.
        space: What is varied.
        goals: What is optimised.
        max_loss: Points of accuracy that may be lost against the uncompressed model; None means any.
        stops: Whether hopeless trials end early.
        draw: Makes the picture of what a trial kept; None makes none.
    """

    config: EvalConfig
    space: Space
    goals: tuple[Goal, ...] = ("accuracy",)
    max_loss: float | None = None
    stops: bool = False
    draw: Draw | None = None

    @property
    def pruned(self) -> bool:
        """Whether Optuna's pruner says what is hopeless: with one goal that is measured per question."""
        return self.stops and self.max_loss is None and self.goals in (("quality",), ("accuracy",))

    def __call__(self, trial: Trial) -> tuple[float, ...]:
        try:
            proposal = self._proposed(trial)
        except BudgetError as error:
            trial.set_user_attr("left_out", str(error))
            raise TrialPruned(str(error)) from error
        trial.set_user_attr("suggested", True)  # from here on it can be taken over
        config = replace(self.config, compressor=proposal.compressor)
        latency = latency_ms(config) if "latency" in self.goals else None
        hope = _Hope(self, trial, latency)
        order = _order(proposal.compressor)
        folder = evaluate(config, order=order, enough=hope.gone) if self.stops else evaluate(config)
        hope.report(folder.read())  # also of a trial whose compressor had all its records already
        measured = self._measured(folder, hope)
        if latency is not None:
            measured["latency"] = latency
        if self.max_loss is not None:
            measured["accuracy_loss"] = 100 * (hope.full.attributes["accuracy"] - measured["accuracy"])
            trial.set_constraint("accuracy loss", measured["accuracy_loss"] - self.max_loss)
            measured["constraints"] = {"accuracy loss": measured["accuracy_loss"] - self.max_loss}  # for the dashboard
        for name, value in {**_facts(proposal), **measured}.items():
            trial.set_user_attr(name, value)
        note(trial, config, folder, self.draw)
        return tuple(measured[goal] for goal in self.goals)

    def restore(self, trial: FrozenTrial) -> None:
        """Answers those questions of a finished trial anew whose records are damaged or lost; often none."""
        notes = trial.user_attrs
        folder = RecordFolder(self.config.out / "records" / notes["run_id"])
        if folder.complete or (notes["stopped"] and folder.parts() and not folder.flaws()):
            return
        compressor = self._proposed(FixedTrial(trial.params)).compressor
        config, order = replace(self.config, compressor=compressor), _order(compressor) if self.stops else None
        enough = (lambda records: records.num_rows >= notes["n"]) if notes["stopped"] else None
        evaluate(config, order=order, enough=enough)

    def _proposed(self, trial: AnyTrial) -> Proposal:
        """What the space suggests, made to suit the model's tower."""
        tower = cached_load(self.config.model, self.config.device, self.config.dtype).adapter.tower
        proposal = self.space.suggest(trial)
        return replace(proposal, compressor=suited(proposal.compressor, tower))

    def _measured(self, folder: RecordFolder, hope: "_Hope") -> dict[str, Any]:
        records = folder.read()
        recall = records["evidence_recall"].to_numpy()
        known = recall[~np.isnan(recall)]
        means = {goal: mean_of(records, goal) for goal in MEASURED} | hope.estimated
        return means | {
            "run_id": folder.folder.name,
            "n": records.num_rows,
            "given": float(np.mean(records["tokens"].to_numpy())),
            "evidence_recall": float(known.mean()) if len(known) else math.nan,
            "stopped": hope.lost,
        }


class _Hope:
    """Whether a running trial may still become one of the best.

    Attributes:
        lost: Why it cannot; empty while it can.
        estimated: What it would have measured, once it is stopped.
    """

    def __init__(self, objective: Objective, trial: Trial, latency: float | None) -> None:
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
        """Tells the pruner what it does not know yet, picture by picture."""
        if not self.objective.pruned:
            return
        for image, value in by_image(records, self.objective.goals[0]).items():
            if image not in self._reported:
                self.trial.report(value, self._steps[image])  # the same step for the same picture in every trial
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


def _order(compressor: Compressor) -> int:
    """Seed of the order of the pictures: another one for every compressor, whenever and however often it is tried."""
    lasting = re.sub(r" at 0x[0-9a-f]+", "", repr(compressor))  # the address of a plug-in without a repr of its own
    return int(sha256(lasting.encode()).hexdigest()[:8], 16)


def _facts(proposal: Proposal) -> dict[str, Any]:
    return {
        "label": proposal.label,
        "family": proposal.family,
        "layers": proposal.layers,
        "weights": list(proposal.weights),
        "compressor": repr(proposal.compressor),
        "compressor_id": identity_of(proposal.compressor, "compressor"),
    }
