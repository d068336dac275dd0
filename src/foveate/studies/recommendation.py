"""A recommendation: the cheapest setting of a method that surely loses at most so many points of accuracy.

Settings race on some of the images, and a few are confirmed on the others, which the race did not see.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import median

import optuna
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from foveate.compressors import Compressor, Identity
from foveate.core.errors import DataError, FoveateError, OptionError
from foveate.data.sample import first_of_images
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.datamodule import by_image
from foveate.evaluation.ranks import notice, world_size
from foveate.evaluation.records import RecordFolder
from foveate.methods.fitting import BUDGETLESS, own_budgets, with_fallbacks
from foveate.methods.from_file import warn_of_model
from foveate.profiling.speed import measure
from foveate.studies.ablation import Choice, ChoiceGrid, named_choices
from foveate.studies.comparison import CONTROLS, ORACLES, applicable, choices_of, recipes_of
from foveate.studies.context import StudyContext
from foveate.studies.non_inferiority import POWER, Losses, fewest_images, images_needed, smallest_loss
from foveate.studies.objective import Draw, Objective
from foveate.studies.opening import open_study
from foveate.studies.plan import RecommendationPlan
from foveate.studies.race import ORDER, Race, losses_on, read
from foveate.studies.racing import Candidate, Standard, Step, confirmed, recommended, sequence
from foveate.studies.space import Planned
from foveate.studies.study import enqueue, run_trials
from foveate.studies.study_folder import StudyFolder

SIMPLE = tuple(name for name in CONTROLS if name not in (*BUDGETLESS, "random_inside"))
"""Controls that are settings like any other, and simpler ones."""


@dataclass(frozen=True)
class Recommendation:
    """The result of a recommendation.

    Attributes:
        study: The study with the race.
        config: The evaluation.
        plan: The plan.
        race: The images of the race, the standard, and the run of the uncompressed model.
        confirming: The images of the confirmation.
        steps: What was confirmed, in order.
        costs: Cost of settings by number of their trial; those that are measured only of settings with a chance.
        full_cost: Cost of the uncompressed model.
        compressor_of: Function from a trial to its compressor.
    """

    study: optuna.Study
    config: EvalConfig
    plan: RecommendationPlan
    race: Race
    confirming: tuple[str, ...]
    steps: tuple[Step, ...]
    costs: Mapping[int, float]
    full_cost: float
    compressor_of: Callable[[FrozenTrial], Compressor]

    @property
    def chosen(self) -> Step | None:
        """The recommended setting; None if none qualifies."""
        return recommended(self.steps)

    def trial(self, number: int) -> FrozenTrial:
        """Returns the trial of a setting."""
        return next(trial for trial in self.study.get_trials(deepcopy=False) if trial.number == number)


def recommend(
    folder: StudyFolder, config: EvalConfig, plan: RecommendationPlan, draw: Draw | None = None
) -> Recommendation:
    """Finds the cheapest setting that loses at most `plan.max_loss` points of accuracy.

    Args:
        folder: The study's folder.
        config: The evaluation; each setting replaces its compressor.
        plan: The plan.
        draw: See `Objective`.

    Raises:
        DataError: The images are too few to show so small a loss, whatever the method.
        FoveateError: The model, data, a method or a budget cannot be used; the message says why.
    """
    if plan.aim != "tokens" and world_size() > 1:
        raise OptionError(f"aim={plan.aim} is measured, which needs the machine for itself: leave --workers out")
    context = StudyContext.of(config)
    config, standard = context.config, Standard(plan.max_loss / 100, plan.confidence)
    racing, confirming = _shares(context, plan)
    choices, budgets = _settings(context, plan)
    _check_images(len(confirming), plan, standard)
    choices, _, left_out, not_applicable = applicable(choices, budgets, context)
    full = evaluate(replace(config, compressor=Identity()), ORDER, shared=True)
    racing, confirming = _answered(full, racing), _answered(full, confirming)
    race = Race(racing, len(confirming), standard, full.folder.name, plan.aim == "tokens")
    grid = ChoiceGrid(tuple(choices), tuple(budgets))
    objective = Objective(config, grid, ("tokens",), draw=draw, race=race)
    chosen = {"standard": asdict(standard), "race_images": len(racing), "aim": plan.aim}
    facts = context.facts | {"left_out": left_out, "not_applicable": not_applicable}
    facts |= {"confirming": len(confirming), "full": full.folder.name}
    folder, study = open_study(folder, objective, context.identity | chosen, facts)
    cells = sorted(grid.cells, key=lambda cell: -cell["keep"])
    if not _complete(study):
        _run(folder, study, objective, cells[:1])
    _check_power(study, plan, standard, len(confirming))
    _run(folder, study, objective, cells)
    compressor_of = partial(_compressor_of, objective, context)
    finished = [trial for trial in _complete(study) if not trial.user_attrs["stopped"]]
    costs, full_cost = _costs(context, plan, finished, compressor_of)

    worth = {number: cost for number, cost in costs.items() if cost < full_cost}
    steps = _confirmed(config, race, confirming, [t for t in finished if t.number in worth], worth, compressor_of)
    return Recommendation(study, config, plan, race, confirming, tuple(steps), costs, full_cost, compressor_of)


def _confirmed(
    config: EvalConfig,
    race: Race,
    confirming: Sequence[str],
    finished: Sequence[FrozenTrial],
    costs: Mapping[int, float],
    compressor_of: Callable[[FrozenTrial], Compressor],
) -> list[Step]:
    """Confirms settings on the images that the race did not see.

    Args:
        config: The evaluation; each setting replaces its compressor.
        race: The race.
        confirming: The images of the confirmation.
        finished: Trials that have finished the race.
        costs: Cost by number of their trial.
        compressor_of: Function from a trial to its compressor.
    """
    trials = {trial.number: trial for trial in finished}

    def losses(run: str, images: Sequence[str]) -> Losses:
        return losses_on(read(config.out, race.full), read(config.out, run), tuple(images))

    def ask(number: int) -> Losses:
        done = evaluate(replace(config, compressor=compressor_of(trials[number])), ORDER, shared=True)
        read.cache_clear()  # the run has grown since the race
        return losses(done.folder.name, confirming)

    candidates = [
        Candidate(number, costs[number], losses(trial.user_attrs["run_id"], race.images))
        for number, trial in trials.items()
    ]
    return confirmed(sequence(candidates, len(confirming), race.standard), race.standard, ask)


def _run(folder: StudyFolder, study: optuna.Study, objective: Objective, cells: Sequence[Planned]) -> None:
    enqueue(folder, study, cells)
    run_trials(folder, study, objective)


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _shares(context: StudyContext, plan: RecommendationPlan) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the images of the race and of the confirmation, in the order in which they are answered.

    Raises:
        DataError: A question is about several images.
    """
    if several := [sample.id for sample in context.samples if sample.several]:
        raise DataError(
            f"{len(several)} questions of {context.config.data!r} are about several images, the first is "
            f"{several[0]!r}: a recommendation is made on questions about one image each; remove the others"
        )
    usable = [sample for sample in context.samples if not sample.problem]
    known = first_of_images(usable)
    images = [some[0].image_id for some in by_image(context.samples, ORDER) if some[0].image_id in known]
    count = round(plan.race_share * len(images))
    return tuple(images[:count]), tuple(images[count:])


def _answered(full: RecordFolder, images: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the images with a question that the uncompressed model could answer; others were skipped."""
    known = set(full.read()["image_id"].to_pylist())
    return tuple(image for image in images if image in known)


def _check_images(images: int, plan: RecommendationPlan, standard: Standard) -> None:
    """Raises `DataError` if no result on so many images could confirm a setting."""
    least = fewest_images(standard.max_loss, standard.confidence)
    if images < least:
        shown = 100 * smallest_loss(images, standard.confidence)
        raise DataError(
            f"{images} images to confirm on cannot show a loss below {shown:.1f} points, even if no answer changes: "
            f"--max-loss {plan.max_loss:g} needs at least {least}, and {math.ceil(least / (1 - plan.race_share))} with "
            "those of the race; give more images (--limit), or accept a larger loss"
        )


def _check_power(study: optuna.Study, plan: RecommendationPlan, standard: Standard, images: int) -> None:
    """Warns if the first setting changes so many answers that a loss of 0 would hardly be confirmed."""
    first = next(iter(_complete(study)), None)
    if first is None:
        return
    spread = first.user_attrs["spread"]
    shown = smallest_loss(images, standard.confidence, spread)
    if shown > standard.max_loss:
        needed = math.ceil(images_needed(standard.max_loss, standard.confidence, spread) / (1 - plan.race_share))
        notice(
            f"{images} images to confirm on show a loss below {100 * shown:.1f} points with a power of {POWER:.0%}, as "
            f"far as {first.user_attrs['label']} tells: for --max-loss {plan.max_loss:g} about {needed:,} images are "
            "needed, those of the race included"
        )


def _settings(context: StudyContext, plan: RecommendationPlan) -> tuple[list[Choice], list[int]]:
    """Returns the choices and budgets of the race."""
    names = tuple(name for name in plan.methods if name not in (*CONTROLS, *ORACLES))
    counts, patches = context.counts(plan.keep), context.tower.grid.patches
    depth = context.loaded.adapter.decoder.depth
    budgets = [b for b in context.counts([*counts, *own_budgets(names, counts, patches, depth)]) if b < patches]
    if not budgets:
        raise FoveateError(f"keep {' '.join(map(str, plan.keep))}: every budget is all of {patches} patches")
    for name in names:
        warn_of_model(name, context.loaded.adapter)
    recipes = recipes_of((*names, *SIMPLE))
    choices = [
        one for label, recipe in recipes.items() for one in choices_of(label, recipe, context.loaded, (0,), (), patches)
    ]
    choices += [choice for choice in named_choices(context.tower, plan.layers) if choice.ranked]
    return [replace(choice, ranked=True) for choice in choices], budgets


def _compressor_of(objective: Objective, context: StudyContext, trial: FrozenTrial) -> Compressor:
    proposal = objective.space.suggest(FixedTrial(trial.params))
    return with_fallbacks(proposal.compressor, context.tower)


def _costs(
    context: StudyContext,
    plan: RecommendationPlan,
    finished: Sequence[FrozenTrial],
    compressor_of: Callable[[FrozenTrial], Compressor],
) -> tuple[dict[int, float], float]:
    """Returns the cost of settings by number of their trial, and that of the uncompressed model."""
    if plan.aim == "tokens":
        tokens = {trial.number: trial.user_attrs["tokens"] for trial in finished}
        return tokens, float(context.tower.grid.patches)
    worth = [trial for trial in finished if trial.user_attrs["chance"] > 0]
    samples = list(first_of_images(context.samples).values())[: plan.batch]
    questions = [(sample.image, sample.question) for sample in samples]
    settings: dict[tuple[str, int], Compressor] = {("trial", trial.number): compressor_of(trial) for trial in worth}
    settings[("full", -1)] = Identity()
    rounds, _ = measure(context.loaded, questions, settings, {}, (plan.new_tokens, plan.rounds))
    found: dict[int, list[float]] = {}
    for one in rounds:
        if plan.aim == "latency":
            found.setdefault(one.key[1], []).append(sum(one.ms.values()) / len(questions))
        elif one.taken is not None and one.taken.peak_bytes is not None:
            found.setdefault(one.key[1], []).append(float(one.taken.peak_bytes))
    if -1 not in found:
        raise OptionError(f"aim={plan.aim}: peak memory cannot be measured on this machine; aim at tokens or latency")
    costs = {number: median(values) for number, values in found.items()}
    return costs, costs.pop(-1)
