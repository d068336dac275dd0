"""Trials of a study: enqueued, and run by any number of processes of which some may die."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import numpy as np
import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.pruners import BasePruner, NopPruner, WilcoxonPruner
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from foveate.core.errors import OutputError, behind, message_of
from foveate.core.progress import bar
from foveate.evaluation import ranks
from foveate.evaluation.announcement import Announced
from foveate.studies.names import ARTIFACTS
from foveate.studies.notes import note_study, unfinished_note
from foveate.studies.objective import Objective
from foveate.studies.plan import SamplerName
from foveate.studies.space import Planned
from foveate.studies.stopping import STARTUP, P
from foveate.studies.study_folder import StudyFolder, has_choice, retry

_SAMPLERS: dict[SamplerName, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed),
    "nsga2": lambda seed: NSGAIISampler(seed=seed, population_size=20),
    "gp": lambda seed: GPSampler(seed=seed),
    "random": lambda seed: RandomSampler(seed=seed),
}
_MOST: dict[SamplerName, int] = {"tpe": 3000}
"""Trials up to which a sampler, of which each costs more than the last, takes little beside an evaluation."""
_POLL_S = 0.5


def enqueue(folder: StudyFolder, study: optuna.Study, trials: Iterable[Planned]) -> None:
    """Enqueues trials that the study does not have yet, and once more those that failed or whose process died.

    Optuna's `skip_if_exists` would also drop a trial that is planned twice, such as a proposal in an evenly spaced
    sample that is a baseline too.

    Optuna notices a dead process when its heartbeats have stopped for a while. On one machine the locks of
    `StudyFolder.working` tell at once, so that a study that was killed resumes with the trial that it was running.
    """
    with folder.queue:
        if folder.storage is None and not folder.workers:
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                study.tell(trial.number, state=TrialState.FAIL)
        for trial in _failed(study):
            retry(study, trial)
        known = [{**trial.system_attrs.get("fixed_params", {}), **trial.params} for trial in study.get_trials(False)]
        for planned in trials:
            if dict(planned) not in known:
                study.enqueue_trial(dict(planned), user_attrs=planned.attributes)


def run_trials(
    folder: StudyFolder,
    study: optuna.Study,
    objective: Objective,
    total: int = 0,
    sampler: SamplerName = "random",
    seed: int = 0,
) -> None:
    """Runs the enqueued trials, and new ones up to `total`; waits for trials that other processes run.

    Optuna's `MaxTrialsCallback` would exceed `total` with several processes, which start their last trials at the same
    time; so a lock is held from counting the trials until one has been started.

    Args:
        folder: The study's folder.
        study: The study.
        objective: Its objective.
        total: Number of trials that the study shall have; the enqueued ones are run in any case.
        sampler: Sampler of new trials.
        seed: The sampler's seed. Every trial has a sampler of its own, seeded by the number of earlier trials, so that
            a resumed study suggests what an uninterrupted one would have.

    Raises:
        OutputError: A trial failed, or the folder or storage cannot be written.
    """
    if (finished := _all_finished(study)) >= max(total, 1):
        ranks.notice(f"Nothing was left to do: all {finished} trials of {folder.name!r} are finished.")
    else:
        ranks.start()
    study.pruner = _pruner(objective)
    with _storage_errors(folder):
        _note_unless(finished >= max(total, 1), folder, study, unfinished_note(study, objective.config, total))
        for trial in bar(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)), "trial", "checking records"):
            objective.restore(trial)
        announced = None
        with folder.working(), bar(total, "trial", miniters=1, delay=0, leave=True) as shown:
            while True:
                with (lock := folder.queue):
                    states = Counter(trial.state for trial in study.get_trials(deepcopy=False))
                    begun = states.total() - states[TrialState.FAIL] - states[TrialState.WAITING]
                    shown.total = max(total, begun + states[TrialState.WAITING])
                    shown.update((done := begun - states[TrialState.RUNNING]) - shown.n)
                    announced = announced or Announced(objective.config, int(shown.total) - begun, done)
                    announced.ended(done)
                    if states[TrialState.WAITING] or begun < total:
                        study.sampler = _sampler(sampler, seed, begun)
                        study.optimize(partial(objective, started=partial(lock.release, force=True)), n_trials=1)
                        continue
                if not states[TrialState.RUNNING]:
                    break
                time.sleep(_POLL_S)
                optuna.storages.fail_stale_trials(study)
    _check_failed(study)


def _check_failed(study: optuna.Study) -> None:
    """Raises `OutputError` if a trial failed."""
    if failed := _failed(study):
        raise OutputError(
            f"{len(failed)} trials failed, the first is trial {failed[0].number}: "
            f"{failed[0].user_attrs.get('failed', 'its process died')}. Run the same command again to repeat them"
        )


@contextmanager
def _storage_errors(folder: StudyFolder) -> Iterator[None]:
    """Turns errors of a full disk or database, which may lie under one of Optuna's, into `OutputError`."""
    try:
        yield
    except Exception as error:
        if cause := behind(error, lambda one: isinstance(one, OSError | SQLAlchemyError)):
            raise OutputError(
                f"{folder.folder} or its storage cannot be written: {message_of(cause)}. Finished trials are "
                "kept: solve that and run the same command again"
            ) from error
        raise


def keep_artifacts(study: optuna.Study, folder: Path) -> None:
    """Uploads the figures in `folder` that are new or have changed to the study's artifacts, for the dashboard."""
    (folder / ARTIFACTS).mkdir(exist_ok=True)
    store = FileSystemArtifactStore(folder / ARTIFACTS)
    kept = {(folder / ARTIFACTS / meta.artifact_id).read_bytes() for meta in get_all_artifact_meta(study)}
    for figure in sorted(folder.glob("*.png")):
        if figure.read_bytes() not in kept:
            upload_artifact(artifact_store=store, file_path=str(figure), study_or_trial=study)


def _note_unless(ended: bool, folder: StudyFolder, study: optuna.Study, text: str) -> None:
    """Saves the note of a study that has not ended."""
    if not ended:
        with folder.queue:
            note_study(study, text)


def _all_finished(study: optuna.Study) -> int:
    """Returns the number of finished trials, or 0 if any is waiting or running."""
    states = Counter(trial.state for trial in study.get_trials(deepcopy=False))
    finished = states[TrialState.COMPLETE] + states[TrialState.PRUNED]
    return finished if not (states[TrialState.WAITING] or states[TrialState.RUNNING]) else 0


def _failed(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the failed trials that were not repeated, apart from those that will be suggested anew."""
    trials = study.get_trials(deepcopy=False)
    repeated = {number for trial in trials for number in trial.system_attrs.get("retry_history", ())}
    failed = [trial for trial in trials if trial.state == TrialState.FAIL and trial.number not in repeated]
    return [trial for trial in failed if has_choice(trial)]


def _sampler(name: SamplerName, seed: int, begun: int) -> BaseSampler:
    """Returns the sampler of the next trial: NSGA-II where there are too many trials for `name`."""
    if begun >= _MOST.get(name, begun + 1):
        _note_switch(name)
        name = "nsga2"
    return _SAMPLERS[name](int(np.random.SeedSequence([seed, begun]).generate_state(1)[0]))


@cache
def _note_switch(name: SamplerName) -> None:
    ranks.notice(
        f"Trials from {_MOST[name]:,} on are suggested by NSGA-II, because {name.upper()} would take ever longer. It "
        "begins anew, with random ones; finished trials stay in the results."
    )


def _pruner(objective: Objective) -> BasePruner:
    return WilcoxonPruner(p_threshold=P, n_startup_steps=STARTUP) if objective.pruned else NopPruner()
