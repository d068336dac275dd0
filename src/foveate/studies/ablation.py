"""An ablation: a grid of choices and budgets on one model and one split."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import optuna

from foveate.core.budget import resolve_keep
from foveate.core.errors import BudgetError
from foveate.evaluation.config import EvalConfig, checkpoint_identity
from foveate.evaluation.names import Existing
from foveate.evaluation.run import cached_load, data_of, first_usable
from foveate.methods.fitting import with_fallbacks
from foveate.models.families.llava import Tower
from foveate.studies.choices import Choice, ChoiceGrid
from foveate.studies.objective import Draw, Objective
from foveate.studies.opening import open_study
from foveate.studies.study import enqueue, run_trials
from foveate.studies.study_folder import StudyFolder


def ablate(
    name: str,
    config: EvalConfig,
    choices_for: Callable[[Tower], Sequence[Choice]],
    keep: Sequence[int | float],
    storage: str | None = None,
    workers: int = 1,
    draw: Draw | None = None,
    existing: Existing = "refuse",
) -> optuna.Study:
    """Evaluates every choice at every budget; bad budgets, layers, models and data are refused before anything runs.

    Args:
        name: Of the study.
        config: Model, data and place; its compressor is replaced by each cell's.
        choices_for: The rows, given the model's tower; "evidence" only where data says where answers are.
        keep: Budgets: counts, or fractions of an image's patches.
        storage: See `StudyFolder`.
        workers: Processes on this machine.
        draw: See `Objective`.
        existing: See `studies.place`.

    Raises:
        FoveateError: Something in the configuration cannot be used; the message says what.
    """
    loaded = cached_load(config.model, config.device, config.dtype)
    samples, questions = data_of(config.data, config.split, config.limit, config.seed)
    first_usable(config, samples, loaded)  # bad data is refused now
    tower = loaded.adapter.tower
    known = any(sample.things.known for sample in samples)
    choices = [choice for choice in choices_for(tower) if known or choice.family != "evidence"]
    keeps = sorted({resolve_keep(budget, tower.grid.patches) for budget in keep}, reverse=True)
    if not keeps:
        raise BudgetError(f"no budget is given: keep 1..{tower.grid.patches} patches, or a fraction of them")
    for choice in choices:
        with suppress(BudgetError):  # what cannot have a budget has no cell there
            loaded.adapter.check(with_fallbacks(choice.recipe(keeps[0]), loaded).needs)
    identity = config.identity(checkpoint_identity(loaded), questions)
    del identity["compressor"]  # each cell has its own
    facts = {
        "model": config.model,
        "patches": tower.grid.patches,
        "grid": [tower.grid.rows, tower.grid.columns],
        "depth": tower.depth,
        "feature_layer": tower.feature_layer,
    }
    grid = ChoiceGrid(tuple(choices), tuple(keeps))
    place = StudyFolder(name, config.out, storage, existing=existing)
    return run_grid(place, config, grid, draw, identity, facts, workers)


def run_grid(
    place: StudyFolder,
    config: EvalConfig,
    grid: ChoiceGrid,
    draw: Draw | None,
    identity: Mapping[str, Any],
    facts: Mapping[str, Any],
    workers: int,
) -> optuna.Study:
    """Runs what is left of a grid.

    Args:
        place: Where the study is kept.
        config: Everything but the compressor.
        grid: The cells.
        draw: See `Objective`.
        identity: What identifies the study besides the grid.
        facts: More to know about it.
        workers: Processes on this machine.
    """
    objective = Objective(config, grid, draw=draw)
    place, study = open_study(place, objective, {**identity, **size_of(config)}, facts)
    enqueue(place, study, grid.cells)
    run_trials(place, study, objective)
    return study


def size_of(config: EvalConfig) -> dict[str, int | None]:
    """What a study's identity says of the data's size, so that its error messages can."""
    return {"limit": config.limit, "seed": config.seed}
