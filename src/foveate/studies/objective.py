"""The objective of grids and searches: it evaluates what a trial suggests, and stores what was measured."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from optuna import Trial, TrialPruned
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.trial import FixedTrial, FrozenTrial
from optuna_dashboard import save_note

from foveate.compressors import Identity
from foveate.core.errors import BudgetError
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.identity import identity_of
from foveate.evaluation.latency import latency_ms
from foveate.evaluation.records import RecordFolder
from foveate.evaluation.run import cached_load
from foveate.methods.fitting import with_fallbacks
from foveate.studies.names import ARTIFACTS
from foveate.studies.notes import trial_note
from foveate.studies.plan import DIRECTIONS, Goal
from foveate.studies.race import Race, Running
from foveate.studies.space import AnyTrial, Proposal, Space
from foveate.studies.stopping import PER_QUESTION, EarlyStopping, Never, Stopping, order_of

_WORST = {"maximize": -math.inf, "minimize": math.inf}
Draw = Callable[[EvalConfig, pa.Table], bytes]
"""Function from a trial's configuration and records to a figure of the kept patches, as PNG."""


@dataclass(frozen=True)
class Objective:
    """Evaluates the compressor that a trial suggests; what was measured becomes attributes of the trial.

    A trial whose choice cannot have its budget is pruned; its attribute `left_out` has the reason. A control has no
    objective value, which Optuna stores as an infinitely bad one, so that no best trial is a control.

    Attributes:
        config: The evaluation; each trial replaces its compressor.
        space: The space that is varied.
        goals: The goals that are optimized.
        max_loss: Points of accuracy that may be lost against the uncompressed model; None means any.
        stops: Whether trials may be stopped early (`studies.stopping`).
        draw: Draws what a trial kept; None draws nothing.
        race: The race of a recommendation, whose trials answer some of the images; None answers all.
    """

    config: EvalConfig
    space: Space
    goals: tuple[Goal, ...] = ("accuracy",)
    max_loss: float | None = None
    stops: bool = False
    draw: Draw | None = None
    race: Race | None = None

    @property
    def pruned(self) -> bool:
        """True if Optuna's pruner stops trials: with one goal, which is measured on answers."""
        return self.stops and self.goals in (("quality",), ("accuracy",))

    def __call__(self, trial: Trial, started: Callable[[], object] = tuple) -> tuple[float, ...]:
        """Evaluates a trial, and returns its goals.

        Args:
            trial: The trial.
            started: Called first, when the storage has the trial.

        Raises:
            TrialPruned: The choice cannot have its budget.
        """
        started()
        with _failures_stored(trial):
            try:
                proposal = self._proposal(trial)
            except BudgetError as error:
                trial.set_user_attr("left_out", str(error))
                raise TrialPruned(str(error)) from error
            if self.race and (why := self.race.skipped(trial, proposal.family, trial.params["keep"])):
                trial.set_user_attr("skipped", why)
                raise TrialPruned(why)
            trial.set_user_attr("suggested", True)  # from here on the trial can be retried
            config = replace(self.config, compressor=proposal.compressor)
            measured: dict[str, Any] = {"latency": latency_ms(config)} if "latency" in self.goals else {}
            stopping = self._stopping(trial, config)
            folder = evaluate(config, stopping.order, stopping.enough)
            records = stopping.counted(folder.read())
            measured |= {"run_id": folder.folder.name, **_measured(records), **stopping.found}
            if self.max_loss is not None:
                measured |= self._loss(trial, measured["accuracy"], self.max_loss)
            for name, value in {**_facts(proposal), **measured}.items():
                trial.set_user_attr(name, value)
            save_note(trial, trial_note(trial.user_attrs, repr(proposal.compressor)))
            _keep_artifacts(trial, records, self.draw and self.draw(config, records), config.out)
            ranked = proposal.ranked and not (self.race and measured["stopped"])
            return tuple(measured[goal] if ranked else _WORST[DIRECTIONS[goal]] for goal in self.goals)

    def restore(self, trial: FrozenTrial) -> None:
        """Answers the questions of a finished trial again if its records are damaged or lost."""
        notes = trial.user_attrs
        folder = RecordFolder(self.config.out / "records" / notes["run_id"])
        partial = bool(notes["stopped"] or self.race)
        if folder.complete or (partial and folder.parts() and not folder.flaws()):
            return
        compressor = self._proposal(FixedTrial(trial.params)).compressor
        config = replace(self.config, compressor=compressor)
        enough = (lambda records: records.num_rows >= notes["rows"]) if partial else None
        order = self.race.order if self.race else order_of(compressor) if self.pruned else None
        evaluate(config, order, enough)

    def _stopping(self, trial: Trial, config: EvalConfig) -> Stopping:
        if self.race:
            return Running(self.race, trial, config)
        return EarlyStopping(trial, config, self.goals[0]) if self.pruned else Never()

    def _proposal(self, trial: AnyTrial) -> Proposal:
        """Returns what the space suggests, with the fallbacks that the model's tower requires."""
        tower = cached_load(self.config.model, self.config.device, self.config.dtype).adapter.tower
        proposal = self.space.suggest(trial)
        return replace(proposal, compressor=with_fallbacks(proposal.compressor, tower))

    def _loss(self, trial: Trial, accuracy: float, limit: float) -> dict[str, Any]:
        """Sets the trial's constraint; returns the loss of accuracy, and the constraint for the dashboard."""
        full = evaluate(replace(self.config, compressor=Identity())).read()
        loss = 100 * (float(PER_QUESTION["accuracy"](full).mean()) - accuracy)
        trial.set_constraint("accuracy loss", loss - limit)
        return {"accuracy_loss": loss, "constraints": {"accuracy loss": loss - limit}}


@contextmanager
def _failures_stored(trial: Trial) -> Iterator[None]:
    """Stores the error that ends the block in the trial's attribute `failed`."""
    try:
        yield
    except TrialPruned:
        raise
    except Exception as error:
        trial.set_user_attr("failed", f"{type(error).__name__}: {error}")
        raise


def _measured(records: pa.Table) -> dict[str, Any]:
    recall = records["evidence_recall"].to_numpy()
    known = recall[~np.isnan(recall)]
    return {
        **{goal: float(values(records).mean()) for goal, values in PER_QUESTION.items()},
        "n": records.num_rows,
        "given": float(np.mean(records["tokens"].to_numpy())),
        "evidence_recall": float(known.mean()) if len(known) else math.nan,
    }


def _facts(proposal: Proposal) -> dict[str, Any]:
    return {
        "label": proposal.label,
        "family": proposal.family,
        "layers": proposal.layers,
        "weights": list(proposal.weights),
        "ranked": proposal.ranked,
        "compressor": f"{proposal.compressor!r:.60} ...",  # the note has all of it
        "compressor_id": identity_of(proposal.compressor, "compressor"),
    }


def _keep_artifacts(trial: Trial, records: pa.Table, figure: bytes | None, out: Path) -> None:
    """Saves the trial's records and figure for the dashboard."""
    artifacts = out / trial.study.study_name / ARTIFACTS
    artifacts.mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(artifacts)
    uploaded = {meta.filename for meta in get_all_artifact_meta(trial)}  # by a process that died before it ended
    with TemporaryDirectory() as scratch:
        pq.write_table(records, Path(scratch) / "records.parquet")
        if figure:
            (Path(scratch) / "kept.png").write_bytes(figure)
        for name in ("records.parquet", "kept.png"):
            path = Path(scratch) / name
            if path.exists() and name not in uploaded:
                upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=trial)
