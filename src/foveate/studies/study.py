"""Opens, guards and runs studies."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.samplers import GridSampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from foveate.core.errors import OutputError
from foveate.studies.objective import Objective

ARTIFACTS = "artifacts"  # folder beside the study
_HEARTBEAT_S, _GRACE_S = 30, 120
_DONE = (TrialState.COMPLETE, TrialState.PRUNED)  # pruned: a cell that cannot be


def run_grid(
    name: str, objective: Objective, identity: Mapping[str, Any], facts: Mapping[str, Any], storage: str | None = None
) -> optuna.Study:
    """Runs what is left of the grid of all choices and budgets, with a progress bar.

    Trials of killed workers are run again; several machines may run the same study at once.

    Args:
        name: Of the study; its files lie in `<out>/<name>`.
        objective: Its choices and budgets span the grid.
        identity: What identifies the study besides the grid; the same name with another identity is refused.
        facts: More to know about it.
        storage: Database URL for several machines; None means a SQLite file.

    Raises:
        OutputError: The folder cannot be written, or the study exists with another configuration.
    """
    grid: dict[str, list] = {"scorer": list(objective.choices), "keep": list(objective.keeps)}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=name,
        storage=_open(objective.config.out / name, storage),
        sampler=GridSampler(grid, seed=0),
        direction="maximize",
        load_if_exists=True,
    )
    _guard(study, {**identity, "scorers": grid["scorer"], "keep": grid["keep"]})
    for fact, value in facts.items():
        study.set_user_attr(fact, value)
    study.set_metric_names(["accuracy"])
    while left := _requeue_failed(study, grid):
        study.optimize(objective, n_trials=left, show_progress_bar=True)
    return study


def keep_artifacts(study: optuna.Study, folder: Path) -> None:
    """Puts the figures in `folder` beside the study, where the dashboard shows them; those that changed anew."""
    (folder / ARTIFACTS).mkdir(exist_ok=True)
    store = FileSystemArtifactStore(folder / ARTIFACTS)
    kept = {(folder / ARTIFACTS / meta.artifact_id).read_bytes() for meta in get_all_artifact_meta(study)}
    for picture in sorted(folder.glob("*.png")):
        if picture.read_bytes() not in kept:
            upload_artifact(artifact_store=store, file_path=str(picture), study_or_trial=study)


def _open(folder: Path, url: str | None) -> RDBStorage:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}; choose another --out") from error
    try:
        return RDBStorage(
            url or f"sqlite:///{folder / 'study.db'}",
            heartbeat_interval=_HEARTBEAT_S,
            grace_period=_GRACE_S,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
        )
    except (SQLAlchemyError, ImportError, ValueError) as error:
        raise OutputError(f"storage {url!r} cannot be used: {str(error).splitlines()[0]}") from error


def _guard(study: optuna.Study, identity: dict[str, Any]) -> None:
    known = study.user_attrs.get("identity")
    if known is None:
        study.set_user_attr("identity", identity)
        return
    differing = [
        f"{key}: {known.get(key)} there, {value} here" for key, value in identity.items() if known.get(key) != value
    ]
    if differing:
        raise OutputError(
            f"study {study.study_name!r} exists with another configuration ({'; '.join(differing)}): "
            "choose another --study, or remove the old one"
        )


def _requeue_failed(study: optuna.Study, grid: Mapping[str, list]) -> int:
    """Number of cells not done; those that failed are queued again, which the grid sampler does not do."""
    trials: dict[tuple, list[optuna.trial.FrozenTrial]] = {cell: [] for cell in itertools.product(*grid.values())}
    for trial in study.get_trials(deepcopy=False):
        trials.get(tuple(trial.params.get(name) for name in grid), []).append(trial)
    for tried in trials.values():
        if tried and all(trial.state == TrialState.FAIL for trial in tried):
            study.add_trial(
                optuna.create_trial(
                    state=TrialState.WAITING,
                    params=tried[0].params,
                    distributions=tried[0].distributions,
                    system_attrs=tried[0].system_attrs,  # the place in the grid
                )
            )
    return sum(not any(trial.state in _DONE for trial in tried) for tried in trials.values())
