"""The plane of image size and budget: a method's tokens from smaller images, beside each of the two alone."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product

import optuna
from optuna.trial import FixedTrial, TrialState

from foveate.compressors import AtResolution, Compressor, Identity
from foveate.compressors.controls import planned_grid
from foveate.core.errors import BudgetError
from foveate.evaluation.config import EvalConfig
from foveate.methods import METHODS
from foveate.methods.fitting import BUDGETLESS, aligned, options_on, with_fallbacks
from foveate.methods.from_file import warn_of_model
from foveate.models.loading.load import LoadedModel
from foveate.profiling.shapes import DecoderShape
from foveate.studies.ablation import RANDOM_SEEDS, Choice, ChoiceGrid
from foveate.studies.comparison import applicable, choices_of, fallbacks_of, place_of, recipes_of
from foveate.studies.context import StudyContext
from foveate.studies.objective import Objective
from foveate.studies.opening import open_study
from foveate.studies.study import enqueue, run_trials
from foveate.studies.study_folder import StudyFolder

ALONE = (*BUDGETLESS, "random", "downsample")
"""The controls of a frontier."""


def frontier(
    folder: StudyFolder,
    config: EvalConfig,
    methods: Sequence[str],
    equivalents: Sequence[int | float],
    resolutions: Sequence[int | float],
    seeds: Iterable[int] = RANDOM_SEEDS,
) -> tuple[optuna.Study, dict[tuple[str, int], Compressor]]:
    """Evaluates methods at every budget on images of every size, and the controls.

    A cell has a budget in equivalent tokens and the number of tokens that an image has before the method: all of them
    (the method alone), fewer (a mix), or as few as the budget (`downsample` alone).

    Args:
        folder: The study's folder.
        config: The evaluation; each cell replaces its compressor.
        methods: Names of the methods; see `compare`.
        equivalents: Budgets in equivalent tokens: counts, or fractions of an image's patches.
        resolutions: Visual tokens of the smaller images: counts, or fractions of an image's patches.
        seeds: Seeds of random methods.

    Returns:
        The study, and the compressor of each finished cell by method and budget; of several seeds, that of one.

    Raises:
        FoveateError: The model, data, a method or a budget cannot be used; the message says why.
    """
    recipes = recipes_of(methods)  # its errors come before the model is loaded
    context = StudyContext.of(config)
    loaded, seeds = context.loaded, tuple(seeds)
    for name in methods:
        warn_of_model(name, loaded.adapter)
    alone = {name: METHODS[name] for name in ALONE} | {"downsample": _downsample} | recipes
    choices = [choice for label, recipe in alone.items() for choice in choices_of(label, recipe, loaded, seeds)]
    mixes = [_mix(label, recipes[label], size, loaded) for label, size in product(recipes, resolutions)]
    tokens = {choice.family: count for choice, count in mixes}
    budgets = context.counts(equivalents)
    choices = [*choices, *{choice.label: choice for choice, _ in mixes}.values()]
    choices, compressors, left_out, not_applicable = applicable(choices, budgets, context)
    facts = context.facts | {
        "decoder": asdict(DecoderShape.of(loaded.adapter.text_config.to_dict())),
        "roles": {
            c.family: "control" if c.family in ALONE else place_of(compressors[c.label], loaded) for c in choices
        },
        "left_out": left_out,
        "not_applicable": not_applicable,
        "fallbacks": fallbacks_of(choices, compressors),
        "resolutions": {choice.family: tokens.get(choice.family, context.tower.grid.patches) for choice in choices},
    }
    grid = ChoiceGrid(tuple(choices), tuple(budgets))
    objective = Objective(config, grid)
    folder, study = open_study(folder, objective, context.identity, facts)
    enqueue(folder, study, grid.cells)
    run_trials(folder, study, objective)
    return study, _finished(study, grid)


def _finished(study: optuna.Study, grid: ChoiceGrid) -> dict[tuple[str, int], Compressor]:
    """Returns the compressor of each finished cell by family and budget; of several seeds, the first."""
    found: dict[tuple[str, int], Compressor] = {}
    for trial in study.get_trials(states=(TrialState.COMPLETE,)):
        proposal = grid.suggest(FixedTrial(trial.params))
        keep = trial.params.get("keep", {"full": study.user_attrs["patches"]}.get(proposal.family, 0))
        found.setdefault((proposal.family, keep), proposal.compressor)
    return found


def _downsample(keep: int) -> Compressor:
    """Returns `downsample`, in LLaVA-1.5 without the pass of the tower over the image at full size."""
    return AtResolution(Identity(), keep)


def _mix(label: str, recipe: Callable[..., Compressor], size: int | float, loaded: LoadedModel) -> tuple[Choice, int]:
    """Returns a method on images of a size, and how many tokens these are expected to have."""
    tokens = planned_grid(size, loaded.adapter.tower.grid.patches)
    mixed = partial(_mixed, loaded, recipe, size, tokens)
    return Choice(f"{label}@{tokens}", f"{label}@{tokens}", "", mixed), tokens


def _mixed(
    loaded: LoadedModel, recipe: Callable[..., Compressor], size: int | float, tokens: int, equivalent: int
) -> Compressor:
    """Returns a method on images of a size at a number of equivalent tokens.

    Raises:
        BudgetError: The smaller image has no more tokens than that, or the method cannot have the budget.
    """
    adapter = loaded.adapter
    if equivalent >= tokens:
        raise BudgetError(f"an image of {tokens} tokens has none to drop for {equivalent}")
    fitting = aligned(recipe, equivalent, tokens, adapter.decoder.depth, **options_on(recipe, adapter))
    return AtResolution(with_fallbacks(fitting, adapter.tower), size)
