"""Opens a study, and tells whether the one of that name is the same."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna

from foveate.core.errors import OutputError
from foveate.core.finished import RESULTS
from foveate.evaluation.config import run_id
from foveate.studies.differences import differences
from foveate.studies.goals import DIRECTIONS
from foveate.studies.objective import Objective
from foveate.studies.study_folder import StudyFolder


def open_study(
    place: StudyFolder, objective: Objective, identity: Mapping[str, Any], facts: Mapping[str, Any]
) -> tuple[StudyFolder, optuna.Study]:
    """Creates the study, or opens it if it is the same.

    Args:
        place: Where it is to be kept; its `existing` says what becomes of another study there.
        objective: Its space and goals are part of its identity.
        identity: What identifies it besides.
        facts: More to know about it.

    Returns:
        Where it is kept, and the study.

    Raises:
        OutputError: The place cannot be used, or the study exists with another configuration.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # why a trial failed is said once, and by us
    varied = {"goals": list(objective.goals), "max_loss": objective.max_loss, "stops": objective.stops}
    whole = {**identity, **objective.space.identity, **varied}
    if place.existing == "aside":
        place.move_aside()
    study = _created(place, objective)
    if different := _guard(place, study, whole):
        if place.existing != "beside":
            raise OutputError(
                f"study {place.name!r} exists with another configuration:\n{different}\nTo go on, choose one: --fresh "
                "moves the old study aside and starts anew, another --study keeps both, and without --study another "
                "configuration goes to a folder of its own"
            )
        place = replace(place, name=f"{place.name}-{run_id(whole)[:8]}", existing="refuse")
        notice = f"the study of the default name has another configuration, so this one is {place.name!r}:\n{different}"
        print(notice, file=sys.stderr)
        return open_study(place, objective, identity, facts)
    with place.queue:  # only now, for a study of another configuration keeps its own
        for fact, value in {**facts, "goals": list(objective.goals), "max_loss": objective.max_loss}.items():
            if study.user_attrs.get(fact) != value:
                study.set_user_attr(fact, value)
        if study.metric_names is None:
            study.set_metric_names(list(objective.goals))
    RESULTS[place.folder] = partial(_results, place.folder, study)
    return place, study


def _results(folder: Path, study: optuna.Study) -> list[Path]:
    """Returns the folder of a study, and those of the records that it rests on."""
    runs = {str(run) for trial in study.get_trials(deepcopy=False) if (run := trial.user_attrs.get("run_id"))}
    return [folder, *(folder.parent / "records" / run for run in sorted(runs))]


def _created(place: StudyFolder, objective: Objective) -> optuna.Study:
    """Returns the study of this name, which is new if there is none."""
    storage = place.open()
    with place.queue:
        return optuna.create_study(
            study_name=place.name,
            storage=storage,
            directions=[DIRECTIONS[goal] for goal in objective.goals],
            load_if_exists=True,
        )


def _guard(place: StudyFolder, study: optuna.Study, identity: dict[str, Any]) -> str:
    """Notes what a new study is; returns in what an existing one differs, a line each, and nothing if it does not."""
    with place.queue:
        if (known := study.user_attrs.get("identity")) is None:
            study.set_user_attr("identity", identity)
            return ""
    return "\n".join(f"  {line}" for line in differences(known, identity))
