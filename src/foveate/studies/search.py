"""A search: a space, goals and a sampler on one split, and what its best finds say on another."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import optuna
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from foveate.compressors import Compressor, Downsample, Pool, VisionCompressor
from foveate.core.errors import BudgetError, FoveateError, shown
from foveate.data.sample import VQASample
from foveate.evaluation import EvalConfig
from foveate.evaluation.config import checkpoint_identity
from foveate.evaluation.run import cached_load, data_of, first_usable
from foveate.methods import vtc_cls
from foveate.methods.fitting import options_on
from foveate.models.families.llava import Tower
from foveate.models.loading.load import LoadedModel
from foveate.scorers import ClsAttention, ClsEnsemble
from foveate.studies.ablation import ablate
from foveate.studies.choices import Choice, controls
from foveate.studies.objective import Draw, Objective
from foveate.studies.opening import open_study
from foveate.studies.plan import SearchPlan
from foveate.studies.recipes import RecipeSpace, opened
from foveate.studies.space import LayerSpace, Planned, Space, budget_of, layer_space
from foveate.studies.study import enqueue, run_trials
from foveate.studies.study_folder import StudyFolder

BEST, SPACED = 8, 20  # proposals of the proxy that are evaluated: the best ones, and some all over its ranking


def _check_apart(searched: Sequence[VQASample], reported: Sequence[VQASample], split: str, other: str) -> None:
    """Splits of other names may share questions, as those of POPE do."""
    seen = {(sample.image_id, sample.question) for sample in searched}
    if shared := [sample for sample in reported if (sample.image_id, sample.question) in seen]:
        raise FoveateError(
            f"report_split={other!r} shares {len(shared)} questions with split {split!r}, which is searched, such as "
            f"{shown(shared[0].question)}: a winner is reported on questions that the search never saw"
        )


def search(
    place: StudyFolder, config: EvalConfig, plan: SearchPlan, workers: int = 1, draw: Draw | None = None
) -> optuna.Study:
    """Runs a search, or what is left of it; with more trials than before it goes on.

    Trials that are planned: the published default, every single layer, all layers together, and those of the first
    proxy. A proxy that the space does not allow is left out; `proxy` among the study's facts says why.

    Args:
        place: Where the study is kept.
        config: Model, data and place; its compressor is replaced by each trial's.
        plan: What is searched.
        workers: Processes on this machine.
        draw: See `Objective`.

    Raises:
        FoveateError: Something cannot be used; the message says what.
    """
    plan.check()
    plan.check_apart(config.split)
    loaded = cached_load(config.model, config.device, config.dtype)
    samples, questions = data_of(config.data, config.split, config.limit, config.seed)
    reported, _ = data_of(config.data, plan.report_split, config.limit, config.seed)
    _check_apart(samples, reported, config.split, plan.report_split)
    first_usable(config, samples, loaded)  # bad data is refused now
    space = space_of(plan, loaded)
    objective = Objective(config, space, plan.goals, plan.max_loss, plan.stops, draw)
    identity = config.identity(checkpoint_identity(loaded), questions)
    del identity["compressor"]  # each trial has its own
    tower = loaded.adapter.tower
    facts = {
        "model": config.model,
        "patches": tower.grid.patches,
        "grid": [tower.grid.rows, tower.grid.columns],
        "depth": tower.depth,
        "feature_layer": tower.feature_layer,
        "decoder_depth": loaded.adapter.decoder.depth,
        "samples": len(samples),
        "searched": " ".join([*plan.space, *plan.open]),
        "default_start": default_start(loaded),
    }
    place, study = open_study(place, objective, {**identity, "limit": config.limit, "seed": config.seed}, facts)
    if "proxy" not in study.user_attrs:
        planned = baselines(space, loaded)
        proxy, more = _proxy_ranking(space, config, plan)
        enqueue(place, study, [*planned, *more])
        study.set_user_attr("proxy", proxy)
    else:
        enqueue(place, study, ())
    run_trials(place, study, objective, plan.trials, plan.sampler, plan.sampler_seed)
    return study


def space_of(plan: SearchPlan, loaded: LoadedModel) -> Space:
    """The space that a plan describes, for this model."""
    tower, depth = loaded.adapter.tower, loaded.adapter.decoder.depth
    plan.check()
    if plan.open:
        budget = budget_of(plan.keep, tower.grid.patches)
        dimensions = opened(plan.space[0], plan.open)
        return RecipeSpace(plan.space[0], dimensions, budget, tower.depth, depth, tower.grid.patches)
    return layer_space(plan.space, plan.keep, tower, depth)


def baselines(space: Space, loaded: LoadedModel) -> list[Planned]:
    """Trials with which every search of layers begins."""
    if not isinstance(space, LayerSpace):
        return []
    tower = loaded.adapter.tower
    wanted = [("default", range(default_start(loaded), tower.feature_layer + 1))]
    wanted += [("ensemble", range(tower.depth)), *(("single", range(i, i + 1)) for i in range(tower.depth))]
    found = [(source, space.params_of(layers)) for source, layers in wanted]
    return [Planned(params, source=source) for source, params in found if params is not None]


def default_start(loaded: LoadedModel) -> int:
    """First layer of VTC-CLS in a tower of this depth."""
    return options_on(vtc_cls, loaded.adapter)["start_layer"]


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that have ended, as opposed to those whose process died or that are still to come."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def winners(study: optuna.Study) -> list[FrozenTrial]:
    """The best trial, or the Pareto front by falling tokens; none where no finished trial keeps the constraint.

    One that was stopped early is never among them.
    """
    try:
        best = study.best_trials if len(study.directions) > 1 else [study.best_trial]
    except ValueError:  # Optuna has no best trial
        return []
    front = [trial for trial in best if not trial.user_attrs["stopped"]]
    return sorted(front, key=lambda trial: -trial.user_attrs["tokens"])


def best_single(study: optuna.Study) -> int | None:
    """The layer that was best alone, by the study's first measure of answers; None if there was none."""
    measure = "accuracy" if "accuracy" in study.user_attrs["goals"] else "quality"
    alone = [t for t in study.get_trials(states=(TrialState.COMPLETE,)) if t.user_attrs["family"] == "single"]
    alone = [trial for trial in alone if not trial.user_attrs["stopped"]]
    best = max(alone, key=lambda trial: trial.user_attrs[measure], default=None)
    return None if best is None else int(best.user_attrs["layers"])


def confirm(
    place: StudyFolder,
    config: EvalConfig,
    plan: SearchPlan,
    study: optuna.Study,
    workers: int = 1,
    draw: Draw | None = None,
) -> optuna.Study | None:
    """Evaluates winners, baselines and controls on the plan's other split, as the study `<name>_<split>_<trials>`.

    Without a winner there is nothing to confirm, and no such study.

    Args:
        place: Of the search; that of the confirmation has the same `existing`.
        config: Of the search.
        plan: Of the search.
        study: The search.
        workers: Processes on this machine.
        draw: See `Objective`.
    """
    if not (found := winners(study)):
        return None
    loaded = cached_load(config.model, config.device, config.dtype)
    tower, start = loaded.adapter.tower, default_start(loaded)
    space = space_of(plan, loaded)
    names = ["winner"] if len(study.directions) == 1 else [f"front {i}" for i in range(1, len(found) + 1)]
    keeps = [max(1, min(tower.grid.patches, round(trial.user_attrs["tokens"]))) for trial in found]
    best = [
        Choice(name, "winner", trial.user_attrs["layers"], _Found(space, tuple(trial.params.items()), keep))
        for name, trial, keep in zip(names, found, keeps, strict=True)
    ]
    published, everything = tuple(range(start, tower.feature_layer + 1)), tuple(range(tower.depth))
    rows = [
        Choice("published default", "default", f"{start}-{tower.feature_layer}", _Scored(ClsEnsemble(published))),
        Choice("uniform ensemble", "ensemble", f"0-{tower.depth - 1}", _Scored(ClsEnsemble(everything))),
    ]
    if (layer := best_single(study)) is not None:
        rows.append(Choice("best single layer", "single", str(layer), _Scored(ClsAttention(layer))))
    others = [Choice("pool", "pool", "", Pool), Choice("downsample", "downsample", "", Downsample)]
    choices = [*best, *rows, *controls(), *others]
    elsewhere = replace(config, split=plan.report_split)
    name = f"{study.study_name}_{plan.report_split}_{len(finished(study))}"
    given = partial(_given, tuple(choices))
    return ablate(name, elsewhere, given, keeps, place.storage, workers, draw, place.existing)


def _given(choices: tuple[Choice, ...], tower: Tower) -> tuple[Choice, ...]:
    return choices


@dataclass(frozen=True)
class _Found:
    """A trial's compressor as a recipe for the budget that it was found to have."""

    space: Space
    params: tuple[tuple[str, object], ...]
    keep: int

    def __call__(self, keep: int) -> Compressor:
        if keep != self.keep:
            raise BudgetError(f"keep={keep}: this one was found at {self.keep}")
        return self.space.suggest(FixedTrial(dict(self.params))).compressor


@dataclass(frozen=True)
class _Scored:
    """The recipe of one scorer."""

    scorer: ClsAttention | ClsEnsemble

    def __call__(self, keep: int) -> Compressor:
        return VisionCompressor(self.scorer, keep)


def _proxy_ranking(space: Space, config: EvalConfig, plan: SearchPlan) -> tuple[dict | None, list[Planned]]:
    if plan.proxy == "none":
        return None, []
    from foveate.studies.proxy import rank_by_proxy  # Lightning takes seconds to import

    try:
        proxy = rank_by_proxy(space, config, plan.proxy, plan.candidates, plan.sampler_seed)
    except FoveateError as error:
        return {"kind": plan.proxy, "candidates": 0, "why": str(error)}, []
    return {"kind": plan.proxy, "candidates": plan.candidates}, proxy.planned(BEST, SPACED)
