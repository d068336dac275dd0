"""A search: a space, goals and a sampler on one split, and a report of its winners on another split."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import optuna
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from foveate.compressors import Compressor, Downsample, Pool
from foveate.compressors.recipe_file import RecipeFile, chosen_for, write
from foveate.core.arrangement import Grid
from foveate.core.errors import BudgetError, FoveateError, shown
from foveate.evaluation.config import EvalConfig
from foveate.evaluation.run import cached_load, data_of
from foveate.methods import vtc_cls
from foveate.methods.fitting import options_on, with_fallbacks
from foveate.models.loading.load import LoadedModel
from foveate.scorers import ClsAttention, ClsEnsemble
from foveate.studies.ablation import Choice, ablate, compressor_of, controls
from foveate.studies.context import StudyContext
from foveate.studies.objective import Draw, Objective
from foveate.studies.opening import open_study
from foveate.studies.plan import SearchPlan
from foveate.studies.recipes import RecipeSpace, opened
from foveate.studies.space import LayerSpace, Planned, Space, budget_of, layer_space
from foveate.studies.study import enqueue, run_trials
from foveate.studies.study_folder import StudyFolder

BEST, SPACED = 8, 20  # proposals that are evaluated: the proxy's best ones, and some evenly spaced in its ranking


def search(folder: StudyFolder, config: EvalConfig, plan: SearchPlan, draw: Draw | None = None) -> optuna.Study:
    """Runs or resumes a search; one that has finished goes on if the plan has more trials than before.

    Planned trials: the published default, every single layer, all layers together, and those chosen by the proxy. If
    the space allows no proxy, `proxy` among the study's facts gives the reason.

    Args:
        folder: The study's folder.
        config: The evaluation; each trial replaces its compressor.
        plan: The plan.
        draw: See `Objective`.

    Raises:
        FoveateError: The model, data or plan cannot be used; the message says why.
    """
    plan.check()
    plan.check_apart(config.split)
    context = StudyContext.of(config)
    _check_disjoint(context, plan.report_split)
    space = space_of(plan, context.loaded, context.tower.grid)
    objective = Objective(config, space, plan.goals, plan.max_loss, plan.stops, draw)
    varied = {"searched": " ".join([*plan.space, *plan.open]), "default_start": default_start(context.loaded)}
    folder, study = open_study(folder, objective, context.identity, context.facts | varied)
    if "proxy" in study.user_attrs:
        enqueue(folder, study, ())
    else:
        proxy, chosen = _chosen_by_proxy(context, space, plan)
        enqueue(folder, study, [*baselines(space, context.loaded), *chosen])
        study.set_user_attr("proxy", proxy)
    run_trials(folder, study, objective, plan.trials, plan.sampler, plan.sampler_seed)
    return study


def _check_disjoint(context: StudyContext, other: str) -> None:
    """Checks that another split shares no question with the searched one, as splits of POPE do.

    Raises:
        FoveateError: They share questions.
    """
    config = context.config
    reported, _ = data_of(replace(config, split=other))
    searched = {(sample.image_id, sample.question) for sample in context.samples}
    if shared := [sample for sample in reported if (sample.image_id, sample.question) in searched]:
        raise FoveateError(
            f"report_split={other!r} shares {len(shared)} questions with split {config.split!r}, which is searched, "
            f"such as {shown(shared[0].question)}: a winner is reported on questions that the search never saw"
        )


def _chosen_by_proxy(context: StudyContext, space: Space, plan: SearchPlan) -> tuple[dict | None, list[Planned]]:
    """Returns facts about the proxy, None without one, and the trials that it chose."""
    if plan.proxy == "none":
        return None, []
    from foveate.studies.proxy import rank_by_proxy  # Lightning takes seconds to import

    try:
        ranking = rank_by_proxy(context, space, plan.proxy, plan.candidates, plan.sampler_seed)
    except FoveateError as error:
        return {"kind": plan.proxy, "candidates": 0, "why": str(error)}, []
    return {"kind": plan.proxy, "candidates": plan.candidates}, ranking.planned(BEST, SPACED)


def space_of(plan: SearchPlan, loaded: LoadedModel, grid: Grid | None = None) -> Space:
    """Returns the space that a plan describes, for a model.

    Args:
        plan: The plan.
        loaded: The model.
        grid: The patches that budgets count; None means those of an image. See `grid_of`.
    """
    tower, depth = loaded.adapter.tower, loaded.adapter.decoder.depth
    tower = replace(tower, grid=grid or tower.grid)
    plan.check()
    if plan.open:
        budget = budget_of(plan.keep, tower.grid.patches)
        dimensions = opened(plan.space[0], plan.open)
        return RecipeSpace(plan.space[0], dimensions, budget, tower.depth, depth, tower.grid.patches)
    return layer_space(plan.space, plan.keep, tower, depth)


def baselines(space: Space, loaded: LoadedModel) -> list[Planned]:
    """Returns the trials with which every search of layers begins."""
    if not isinstance(space, LayerSpace):
        return []
    tower = loaded.adapter.tower
    wanted = [("default", range(default_start(loaded), tower.feature_layer + 1)), ("ensemble", range(tower.depth))]
    wanted += [("single", range(layer, layer + 1)) for layer in range(tower.depth)]
    found = [(source, space.params_of(layers)) for source, layers in wanted]
    return [Planned(params, source=source) for source, params in found if params is not None]


def default_start(loaded: LoadedModel) -> int:
    """Returns the first layer that VTC-CLS sums in a tower of this depth."""
    return options_on(vtc_cls, loaded.adapter)["start_layer"]


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the trials that are complete or were pruned."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def winners(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the best trial, or the Pareto front by falling tokens; none if no finished trial keeps the constraint.

    Stopped trials are never among them.
    """
    try:
        best = study.best_trials if len(study.directions) > 1 else [study.best_trial]
    except ValueError:  # Optuna has no best trial
        return []
    front = [trial for trial in best if not trial.user_attrs["stopped"]]
    return sorted(front, key=lambda trial: -trial.user_attrs["tokens"])


def best_single(study: optuna.Study) -> int | None:
    """Returns the best single layer by accuracy if that is a goal, else by quality; None if no trial had one."""
    measure = "accuracy" if "accuracy" in study.user_attrs["goals"] else "quality"
    singles = [t for t in study.get_trials(states=(TrialState.COMPLETE,)) if t.user_attrs["family"] == "single"]
    singles = [trial for trial in singles if not trial.user_attrs["stopped"]]
    best = max(singles, key=lambda trial: trial.user_attrs[measure], default=None)
    return None if best is None else int(best.user_attrs["layers"])


def confirm(
    folder: StudyFolder, config: EvalConfig, plan: SearchPlan, study: optuna.Study, draw: Draw | None = None
) -> optuna.Study | None:
    """Evaluates winners, baselines and controls on the plan's other split, as the study `<name>_<split>_<trials>`.

    Args:
        folder: The search's folder; storage and treatment of an existing study are the same.
        config: The search's configuration.
        plan: The search's plan.
        study: The search.
        draw: See `Objective`.

    Returns:
        The study, or None if the search has no winner.
    """
    if not (found := winners(study)):
        return None
    loaded = cached_load(config.model, config.device, config.dtype)
    space, patches = space_of(plan, loaded, _grid_of(study)), _grid_of(study).patches
    names = ["winner"] if len(study.directions) == 1 else [f"front {i}" for i in range(1, len(found) + 1)]
    images = _images_per_question(config)
    keeps = [max(1, min(patches, round(trial.user_attrs["tokens"] / images))) for trial in found]
    best = [
        Choice(name, "winner", trial.user_attrs["layers"], _recipe_of(trial, space, keep))
        for name, trial, keep in zip(names, found, keeps, strict=True)
    ]
    sizes = (("pool", Pool), ("downsample", Downsample))
    pools = [Choice(name, name, "", recipe, ranked=False) for name, recipe in sizes]
    choices = [*best, *_layer_baselines(study, loaded), *controls(), *pools]
    name = f"{study.study_name}_{plan.report_split}_{len(finished(study))}"
    other = replace(config, split=plan.report_split)
    return ablate(replace(folder, name=name), other, lambda tower: choices, keeps, draw)


def save_winners(study: optuna.Study, config: EvalConfig, plan: SearchPlan) -> list[Path]:
    """Writes a recipe file for each winner: `recipe.json`, or `recipe-1.json` and so on for a Pareto front.

    Args:
        study: The search.
        config: Its configuration.
        plan: Its plan.

    Returns:
        The files.
    """
    loaded, found = cached_load(config.model, config.device, config.dtype), winners(study)
    space, chosen = space_of(plan, loaded, _grid_of(study)), chosen_for(loaded.adapter)
    names = ["recipe"] if len(study.directions) == 1 else [f"recipe-{number}" for number, _ in enumerate(found, 1)]
    files = []
    for name, trial in zip(names, found, strict=True):
        compressor = with_fallbacks(space.suggest(FixedTrial(trial.params)).compressor, loaded)
        origin = {"study": study.study_name, "trial": trial.number, "data": config.data, "split": config.split}
        origin |= {key: trial.user_attrs[key] for key in ("n", "tokens", "accuracy", "quality")}
        files.append(config.out / study.study_name / f"{name}.json")
        write(files[-1], RecipeFile(compressor, trial.user_attrs["label"], chosen, origin))
    return files


def _grid_of(study: optuna.Study) -> Grid:
    return Grid(*study.user_attrs["grid"])


def _images_per_question(config: EvalConfig) -> float:
    """Returns the mean number of images of the questions that can be asked; videos and text alone count as one."""
    samples, _ = data_of(config)
    return fmean(max(1, len(sample.sources)) for sample in samples if not sample.problem)


def _layer_baselines(study: optuna.Study, loaded: LoadedModel) -> Sequence[Choice]:
    """Returns the published default, all layers, and the search's best single layer if it evaluated any."""
    tower, start = loaded.adapter.tower, default_start(loaded)
    published, everything = range(start, tower.feature_layer + 1), range(tower.depth)
    choices = [
        Choice(name, family, f"{layers[0]}-{layers[-1]}", compressor_of(ClsEnsemble(tuple(layers))))
        for name, family, layers in (
            ("published default", "default", published),
            ("uniform ensemble", "ensemble", everything),
        )
    ]
    if (layer := best_single(study)) is not None:
        choices.append(Choice("best single layer", "single", str(layer), compressor_of(ClsAttention(layer))))
    return choices


def _recipe_of(trial: FrozenTrial, space: Space, found_at: int) -> Callable[[int], Compressor]:
    """Returns a trial's compressor as a recipe that has one budget, the one that it was found at."""

    def recipe(keep: int) -> Compressor:
        if keep != found_at:
            raise BudgetError(f"keep={keep}: this compressor was found at {found_at}")
        return space.suggest(FixedTrial(trial.params)).compressor

    return recipe
