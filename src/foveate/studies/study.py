"""Opens, guards and runs studies."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.samplers import GridSampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState

from foveate.core.errors import OutputError
from foveate.studies.objective import Objective

_HEARTBEAT_S, _GRACE_S = 30, 120


def run_grid(name: str, objective: Objective, about: Mapping[str, Any], storage: str | None = None) -> optuna.Study:
    """Runs what is left of the grid of all choices and budgets, with a progress bar.

    Trials of killed workers are run again; several machines may run the same study at once.

    Args:
        name: Of the study; its files lie in `<out>/<name>`.
        objective: Its choices and budgets span the grid.
        about: What identifies the study besides the grid; the same name with another identity is refused.
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
    _guard(study, {**about, "scorers": grid["scorer"], "keep": grid["keep"]})
    study.set_metric_names(["accuracy"])
    while left := _requeue_failed(study, grid):
        study.optimize(objective, n_trials=left, show_progress_bar=True)
    return study


def keep_artifacts(study: optuna.Study, folder: Path) -> None:
    """Puts the figures in `folder` beside the study, where the dashboard shows them; once each."""
    store_path = folder / "artifacts"
    store_path.mkdir(exist_ok=True)
    store = FileSystemArtifactStore(store_path)
    known = {meta.filename for meta in optuna.artifacts.get_all_artifact_meta(study)}
    for picture in sorted(folder.glob("*.png")):
        if picture.name not in known:
            upload_artifact(artifact_store=store, file_path=str(picture), study_or_trial=study)


def _open(folder: Path, url: str | None) -> RDBStorage:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}; choose another --out") from error
    return RDBStorage(
        url or f"sqlite:///{folder / 'study.db'}",
        heartbeat_interval=_HEARTBEAT_S,
        grace_period=_GRACE_S,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
    )


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
    """Number of cells without a result; those that failed are queued again, which the grid sampler does not do."""
    cells = set(itertools.product(*grid.values()))
    states: dict[tuple, set[TrialState]] = {cell: set() for cell in cells}
    for trial in study.get_trials(deepcopy=False):
        params = trial.params or trial.system_attrs.get("fixed_params", {})
        states.get(tuple(params.get(name) for name in grid), set()).add(trial.state)
    for cell, seen in states.items():
        if seen == {TrialState.FAIL}:
            study.enqueue_trial(dict(zip(grid, cell, strict=True)))
    return sum(TrialState.COMPLETE not in seen for seen in states.values())
