"""Opening of studies: a new one, or an existing one of the same configuration."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna

from foveate.core.errors import OutputError
from foveate.core.finished import RESULTS
from foveate.evaluation.config import run_id
from foveate.evaluation.ranks import notice, rank
from foveate.studies.objective import Objective
from foveate.studies.plan import DIRECTIONS
from foveate.studies.reports import differences
from foveate.studies.study_folder import StudyFolder


def open_study(
    folder: StudyFolder, objective: Objective, identity: Mapping[str, Any], facts: Mapping[str, Any]
) -> tuple[StudyFolder, optuna.Study]:
    """Creates a study, or opens the existing one if its configuration is the same.

    Args:
        folder: The study's folder; its `existing` applies to an existing study of that name.
        objective: The objective; its space and goals are part of the configuration.
        identity: All else that identifies the configuration.
        facts: Further attributes of the study, for reports.

    Returns:
        The study's folder, which `existing="beside"` may have renamed, and the study.

    Raises:
        OutputError: The folder cannot be used, or the study exists with another configuration.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # `run_trials` reports failures itself
    varied = {"goals": list(objective.goals), "max_loss": objective.max_loss, "stops": objective.stops}
    configuration = {**identity, **objective.space.identity, **varied}
    if folder.existing == "aside" and rank() == 0:
        folder.move_aside()
    study = _created(folder, objective)
    if different := _compare(folder, study, configuration):
        if folder.existing != "beside":
            raise OutputError(
                f"study {folder.name!r} exists with another configuration:\n{different}\nTo go on, choose one: --fresh "
                "moves the old study aside and starts anew, another --study keeps both, and without --study another "
                "configuration goes to a folder of its own"
            )
        folder = replace(folder, name=f"{folder.name}-{run_id(configuration)[:8]}", existing="refuse")
        text = f"the study of the default name has another configuration, so this one is {folder.name!r}:"
        notice(f"{text}\n{different}")
        return open_study(folder, objective, identity, facts)
    with folder.queue:
        for fact, value in {**facts, "goals": list(objective.goals), "max_loss": objective.max_loss}.items():
            if study.user_attrs.get(fact) != value:
                study.set_user_attr(fact, value)
        if study.metric_names is None:
            study.set_metric_names(list(objective.goals))
    RESULTS[folder.folder] = partial(_results, folder.folder, study)
    return folder, study


def _results(folder: Path, study: optuna.Study) -> list[Path]:
    """Returns the folder of a study and the folders of its records."""
    runs = {str(run) for trial in study.get_trials(deepcopy=False) if (run := trial.user_attrs.get("run_id"))}
    return [folder, *(folder.parent / "records" / run for run in sorted(runs))]


def _created(folder: StudyFolder, objective: Objective) -> optuna.Study:
    storage = folder.open()
    with folder.queue:
        return optuna.create_study(
            study_name=folder.name,
            storage=storage,
            directions=[DIRECTIONS[goal] for goal in objective.goals],
            load_if_exists=True,
        )


def _compare(folder: StudyFolder, study: optuna.Study, configuration: dict[str, Any]) -> str:
    """Returns the differences from an existing study's configuration, a line each, after storing a new study's."""
    with folder.queue:
        if (known := study.user_attrs.get("identity")) is None:
            study.set_user_attr("identity", configuration)
            return ""
    return "\n".join(f"  {line}" for line in differences(known, configuration))
