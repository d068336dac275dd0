"""An ablation: a grid of choices and budgets on one model and one split."""

from collections.abc import Callable, Sequence

import optuna

from foveate.core.budget import resolve_keep
from foveate.core.errors import BudgetError
from foveate.evaluation.config import EvalConfig
from foveate.evaluation.run import cached_load, data_of
from foveate.models.llava import Tower
from foveate.studies.objective import Objective
from foveate.studies.spaces import Choice
from foveate.studies.study import run_grid


def ablate(
    name: str,
    config: EvalConfig,
    choices_for: Callable[[Tower], Sequence[Choice]],
    keep: Sequence[int | float],
    storage: str | None = None,
) -> optuna.Study:
    """Evaluates every choice at every budget; bad budgets, layers, models and data are refused before anything runs.

    Args:
        name: Of the study.
        config: Model, data and place; its compressor is replaced by each cell's.
        choices_for: The rows, given the model's tower.
        keep: Budgets: counts, or fractions of an image's patches.
        storage: See `run_grid`.

    Raises:
        FoveateError: Something in the configuration cannot be used; the message says what.
    """
    loaded = cached_load(config.model, config.device, config.dtype)
    _, questions = data_of(config.data, config.split, config.limit, config.seed)
    tower = loaded.adapter.tower
    choices = choices_for(tower)
    keeps = sorted({resolve_keep(budget, tower.grid.patches) for budget in keep}, reverse=True)
    if not keeps:
        raise BudgetError(f"no budget is given: keep 1..{tower.grid.patches} patches, or a fraction of them")
    for choice in choices:
        loaded.adapter.check(choice.recipe(keeps[0]).needs)
    identity = config.identity(loaded.identity, questions)
    del identity["compressor"]  # each cell has its own
    facts = {
        "model": config.model,
        "patches": tower.grid.patches,
        "grid": [tower.grid.rows, tower.grid.columns],
        "depth": tower.depth,
        "feature_layer": tower.feature_layer,
    }
    objective = Objective(config, {choice.label: choice for choice in choices}, keeps)
    return run_grid(name, objective, {**identity, "limit": config.limit, "seed": config.seed}, facts, storage)
