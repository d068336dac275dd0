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

from foveate.compressors import Compressor
from foveate.core.errors import BudgetError
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.identity import identity_of
from foveate.evaluation.latency import latency_ms
from foveate.evaluation.records import RecordFolder
from foveate.evaluation.run import cached_load
from foveate.methods.fitting import with_fallbacks
from foveate.studies.goals import mean_of
from foveate.studies.notes import note
from foveate.studies.plan import Goal
from foveate.studies.space import AnyTrial, Proposal, Space
from foveate.studies.stopping import MEASURED, EarlyStopping

Draw = Callable[[EvalConfig, pa.Table], bytes]
"""Makes the figure of what a trial kept, from its configuration and records, as PNG."""


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
        draw: Makes the figure of what a trial kept; None makes none.
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
        early_stopping = EarlyStopping(self, trial, latency)
        order = _order(proposal.compressor)
        folder = evaluate(config, order=order, enough=early_stopping.gone) if self.stops else evaluate(config)
        early_stopping.report(folder.read())  # also of a trial whose compressor had all its records already
        measured = self._measured(folder, early_stopping)
        if latency is not None:
            measured["latency"] = latency
        if self.max_loss is not None:
            measured["accuracy_loss"] = 100 * (early_stopping.full.attributes["accuracy"] - measured["accuracy"])
            trial.set_constraint("accuracy loss", measured["accuracy_loss"] - self.max_loss)
            measured["constraints"] = {"accuracy loss": measured["accuracy_loss"] - self.max_loss}  # for the dashboard
        for name, value in {**_facts(proposal), **measured}.items():
            trial.set_user_attr(name, value)
        note(trial, config, folder, self.draw)
        return tuple(measured[goal] for goal in self.goals)

    def restore(self, trial: FrozenTrial) -> None:
        """Answers the questions of a finished trial again whose records are damaged or lost."""
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
        return replace(proposal, compressor=with_fallbacks(proposal.compressor, tower))

    def _measured(self, folder: RecordFolder, early_stopping: "EarlyStopping") -> dict[str, Any]:
        records = folder.read()
        recall = records["evidence_recall"].to_numpy()
        known = recall[~np.isnan(recall)]
        means = {goal: mean_of(records, goal) for goal in MEASURED} | early_stopping.estimated
        return means | {
            "run_id": folder.folder.name,
            "n": records.num_rows,
            "given": float(np.mean(records["tokens"].to_numpy())),
            "evidence_recall": float(known.mean()) if len(known) else math.nan,
            "stopped": early_stopping.lost,
        }


def _order(compressor: Compressor) -> int:
    """Seed of the order of the images: another one for every compressor, whenever and however often it is tried."""
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
