"""Runs studies: a queue of planned trials that any number of workers empty, of which some may die."""

import os
import platform
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
import optuna
import torch
from filelock import FileLock, Timeout
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.pruners import BasePruner, NopPruner, WilcoxonPruner
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from foveate.core.errors import OutputError, behind, interrupted, said
from foveate.core.progress import bar, hush
from foveate.studies import database
from foveate.studies.notes import ARTIFACTS
from foveate.studies.objective import Objective
from foveate.studies.plan import SamplerName
from foveate.studies.space import Planned
from foveate.studies.stopping import STARTUP, P
from foveate.studies.study_folder import StudyFolder, chosen, retry

_SAMPLERS: dict[SamplerName, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed),
    "nsga2": lambda seed: NSGAIISampler(seed=seed, population_size=20),
    "gp": lambda seed: GPSampler(seed=seed),
    "random": lambda seed: RandomSampler(seed=seed),
}
_POLL_S = 0.5


def queue(place: StudyFolder, study: optuna.Study, trials: Iterable[Planned]) -> None:
    """Plans trials, unless they are in the study already, and once more those that failed."""
    with place.queue:
        _revive(place, study)
        there = study.get_trials(deepcopy=False)
        retried = {number for trial in there for number in trial.system_attrs.get("retry_history", ())}
        for trial in there:
            if trial.state == TrialState.FAIL and trial.number not in retried:
                retry(study, trial)
        known = [_params(trial) for trial in there]
        for planned in trials:
            if dict(planned) not in known:
                study.enqueue_trial(dict(planned), user_attrs=planned.attributes)


def run_trials(
    place: StudyFolder,
    study: optuna.Study,
    objective: Objective,
    total: int = 0,
    sampler: SamplerName = "random",
    seed: int = 0,
    workers: int = 1,
) -> None:
    """Runs all planned trials, and new ones up to `total`; waits for trials that other workers are at.

    Args:
        place: Where the study is kept.
        study: Opened there.
        objective: Of the study.
        total: Number of trials that the study shall have; less than are planned means those.
        sampler: Of new trials.
        seed: Of the sampler, which starts anew for every trial, so that a killed study goes on as it would have.
        workers: Processes on this machine.

    Raises:
        OutputError: A trial failed in another process, or nothing can be written any more.
    """
    if workers < 1:
        raise OutputError(f"workers={workers}: at least one is needed")
    rest = (objective, total, sampler, seed)
    context = get_context("spawn")
    threads = max(1, torch.get_num_threads() // workers)
    others = [context.Process(target=_worker, args=(place, *rest, threads)) for _ in range(workers - 1)]
    with _without_ctrl_c():
        for other in others:
            other.start()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        for trial in bar(done, "trial", "looking at what is there"):
            objective.restore(trial)
        if (there := _settled(study)) >= max(total, 1):
            print(f"Nothing was left to do: all {there} trials of {place.name!r} are there.", file=sys.stderr)
        _work(place, study, *rest)
        for other in others:
            other.join()
        if lost := [other.exitcode for other in others if other.exitcode]:
            warn(f"{len(lost)} of {workers} workers died (exit codes {lost}); the others did their work", stacklevel=2)
    except (KeyboardInterrupt, Exception) as error:
        if interrupted(error):
            _dismiss(others)
            raise
        if cause := behind(error, lambda one: isinstance(one, OSError | SQLAlchemyError)):  # under one of Optuna's
            raise OutputError(
                f"{place.folder} or its storage cannot be written any more: {said(cause)}. What was finished is kept: "
                "mend that and run the same command again"
            ) from error
        raise
    finally:
        for other in others:
            other.terminate()
        torch.set_num_threads(before)
    there = study.get_trials(deepcopy=False)
    retried = {number for trial in there for number in trial.system_attrs.get("retry_history", ())}
    if failed := [t for t in there if t.state == TrialState.FAIL and t.number not in retried and chosen(t)]:
        raise OutputError(
            f"{len(failed)} trials failed, the first is trial {failed[0].number}: "
            f"{failed[0].user_attrs.get('failed', 'its process died')}. Run the same command again to repeat them"
        )
    database.seal(place.folder / database.NAME)


def keep_artifacts(study: optuna.Study, folder: Path) -> None:
    """Puts the figures in `folder` beside the study, where the dashboard shows them; those that changed anew."""
    (folder / ARTIFACTS).mkdir(exist_ok=True)
    store = FileSystemArtifactStore(folder / ARTIFACTS)
    kept = {(folder / ARTIFACTS / meta.artifact_id).read_bytes() for meta in get_all_artifact_meta(study)}
    for figure in sorted(folder.glob("*.png")):
        if figure.read_bytes() not in kept:
            upload_artifact(artifact_store=store, file_path=str(figure), study_or_trial=study)
    database.seal(folder / database.NAME)


def _settled(study: optuna.Study) -> int:
    """Returns how many trials have ended; 0 while others are to come or run."""
    states = Counter(trial.state for trial in study.get_trials(deepcopy=False))
    left = states[TrialState.WAITING] + states[TrialState.RUNNING]
    return 0 if left else states[TrialState.COMPLETE] + states[TrialState.PRUNED]


def _worker(
    place: StudyFolder, objective: Objective, total: int, sampler: SamplerName, seed: int, threads: int
) -> None:
    """A process of its own, which ends with the one that started it."""
    parent = parent_process()
    threading.Thread(target=lambda: (parent.join() if parent else None, os._exit(1)), daemon=True).start()
    hush()
    torch.set_num_threads(threads)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name=place.name, storage=place.open())
    _work(place, study, objective, total, sampler, seed)


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Processes that are started here do not hear it: the first one does, and ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _quiet_hearts() -> Iterator[None]:
    """Optuna's heartbeats fail where the study cannot be written, which is said once, by who works."""
    loud = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not behind(failed.exc_value, lambda one: isinstance(one, SQLAlchemyError)):
            loud(failed)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = loud


def _dismiss(workers: Sequence[SpawnProcess]) -> None:
    """Has workers end after the batch that they are at, or at once if Ctrl-C is pressed meanwhile."""
    try:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()
    except KeyboardInterrupt:
        for worker in workers:
            worker.kill()
        raise


def _work(
    place: StudyFolder,
    study: optuna.Study,
    objective: Objective,
    total: int,
    sampler: SamplerName,
    seed: int,
) -> None:
    """Takes trials, one at a time, until none is left and none is under way."""
    me = f"{platform.node()}-{os.getpid()}-{time.time_ns()}"
    study.pruner = _pruner(objective)
    there = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))
    shown = bar(max(total, there), "trial", initial=there, miniters=1, delay=0, leave=True)
    with FileLock(place.folder / "workers" / me), shown, _quiet_hearts():
        while True:
            lock = place.queue
            with lock:
                _revive(place, study)
                states = Counter(trial.state for trial in study.get_trials(deepcopy=False))
                started = states.total() - states[TrialState.FAIL] - states[TrialState.WAITING]
                finished = started - states[TrialState.RUNNING]
                shown.total = max(total, started + states[TrialState.WAITING])
                shown.update(finished - shown.n)
                if states[TrialState.WAITING] or started < total:
                    study.sampler = _SAMPLERS[sampler](_seed(seed, started))
                    _optimize(study, _Taken(objective, me, lock))
                    continue
            if not states[TrialState.RUNNING]:
                break
            time.sleep(_POLL_S)
    (place.folder / "workers" / me).unlink(missing_ok=True)


@dataclass
class _Taken:
    """The objective, which lets others take the next trial as soon as this one is known to be taken."""

    objective: Objective
    worker: str
    lock: FileLock
    interrupted: bool = False

    def __call__(self, trial: optuna.Trial) -> float | Sequence[float]:
        trial.set_user_attr("worker", self.worker)
        self.lock.release(force=True)
        try:
            return self.objective(trial)
        except optuna.TrialPruned:
            raise
        except BaseException as error:
            self.interrupted = interrupted(error)
            trial.set_user_attr("failed", f"{type(error).__name__}: {error}")
            raise


def _optimize(study: optuna.Study, taken: _Taken) -> None:
    """One trial. Optuna keeps Ctrl-C until the trial is told to have failed, and forgets it if that fails as well."""
    try:
        study.optimize(taken, n_trials=1)
    except Exception as error:
        if taken.interrupted:
            raise KeyboardInterrupt from error
        raise


def _revive(place: StudyFolder, study: optuna.Study) -> None:
    """Plans anew the trials of workers on this machine that died; the queue must be held.

    Who takes a trial puts his name to it before he lets go of the queue, so one without a name is nobody's. A worker
    holds the lock that carries his name as long as he lives. On other machines the heartbeat tells.
    """
    optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _alive(place, trial.user_attrs.get("worker")):
            continue
        study.tell(trial.number, state=TrialState.FAIL)
        retry(study, trial)


def _alive(place: StudyFolder, worker: str | None) -> bool:
    if worker is None:
        return False
    if not worker.startswith(f"{platform.node()}-"):
        return True  # as far as one can tell from here; its heart may stop beating
    path = place.folder / "workers" / worker
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def _params(trial: FrozenTrial) -> dict[str, Any]:
    """Those that it has, or is to have."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def _seed(seed: int, started: int) -> int:
    return int(np.random.SeedSequence([seed, started]).generate_state(1)[0])


def _pruner(objective: Objective) -> BasePruner:
    return WilcoxonPruner(p_threshold=P, n_startup_steps=STARTUP) if objective.pruned else NopPruner()
