"""A comparison: methods and controls at aligned budgets on one model and one split."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from inspect import signature
from itertools import islice
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import optuna
import torch

from foveate.compressors import Compressor, Fallback
from foveate.core.budget import plain_keep, resolve_keep
from foveate.core.errors import BudgetError, FoveateError, LayerError, UnsupportedNeed
from foveate.data.sample import VQASample, media_of
from foveate.evaluation.config import EvalConfig
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.module import Answering
from foveate.evaluation.prompts import failure_of
from foveate.evaluation.run import data_of
from foveate.methods import METHODS
from foveate.methods.fitting import BUDGETLESS, aligned, method, options_on, own_budgets, with_fallbacks
from foveate.methods.from_file import warn_of_model
from foveate.methods.registry import label_of, turns_of, usual_methods
from foveate.models.backbone.adapter import Tower
from foveate.models.loading.load import LoadedModel
from foveate.profiling.shapes import DecoderShape
from foveate.studies.ablation import RANDOM_SEEDS, Choice, ChoiceGrid
from foveate.studies.context import StudyContext
from foveate.studies.objective import Draw, Objective
from foveate.studies.opening import open_study
from foveate.studies.study import enqueue, run_trials
from foveate.studies.study_folder import StudyFolder

# rows of every comparison
CONTROLS = {
    name: METHODS[name]
    for name in (
        *(*BUDGETLESS, "random", "uniform", "pool", "downsample"),
        *("saturation", "contrast", "edges", "random_inside"),
    )
}
FRAME_CONTROLS = {name: METHODS[name] for name in ("random_per_frame", "fewer_frames", "temporal_mean")}
"""Further rows of every comparison about videos."""
ORACLES = ("evidence", "response_attention")


def compare(
    folder: StudyFolder,
    config: EvalConfig,
    methods: Sequence[str] = usual_methods(videos=False),
    equivalents: Sequence[int | float] = (0.5,),
    seeds: Iterable[int] = RANDOM_SEEDS,
    draw: Draw | None = None,
) -> optuna.Study:
    """Evaluates every method and control at every budget.

    Each method is set so that its visual tokens, averaged over the decoder's blocks, come nearest to the budget. A
    method that cannot reach a budget, or cannot run on this model, has no cell there; `left_out` and `not_applicable`
    among the study's facts give the reasons. Methods with a `seed` run once per seed.

    Args:
        folder: The study's folder.
        config: The evaluation; each cell replaces its compressor.
        methods: Names in `METHODS`, a user's own as "package.module:function" or "file.py:function", or recipe files.
        equivalents: Budgets in equivalent tokens: counts, or fractions of an image's patches. The budget of a recipe
            file is added, and the other methods are evaluated at it, too.
        seeds: Seeds of random methods.
        draw: See `Objective`.

    Raises:
        FoveateError: The model, data, a method or a budget cannot be used; the message says why.
    """
    recipes_of((*CONTROLS, *methods))  # its errors come before the model is loaded
    context = StudyContext.of(config)
    loaded = context.loaded
    choices, budgets = planned(context, methods, equivalents, seeds)
    for name in methods:
        warn_of_model(name, loaded.adapter)
    choices, compressors, left_out, not_applicable = applicable(choices, budgets, context)
    facts = context.facts | {
        "decoder": asdict(DecoderShape.of(loaded.adapter.text_config.to_dict())),
        "roles": {choice.family: _role(choice.family, compressors[choice.label], context) for choice in choices},
        "left_out": left_out,
        "not_applicable": not_applicable,
        "fallbacks": fallbacks_of(choices, compressors),
    }
    grid = ChoiceGrid(tuple(choices), tuple(budgets))
    objective = Objective(config, grid, draw=draw)
    folder, study = open_study(folder, objective, context.identity, facts)
    enqueue(folder, study, grid.cells)
    run_trials(folder, study, objective)
    return study


def usual_for(config: EvalConfig) -> tuple[str, ...]:
    """Returns the methods that are compared if none is named: those for videos if a question is about one.

    Raises:
        DataError: The data set cannot be read.
    """
    samples, _ = data_of(config)
    return usual_methods(any(sample.video for sample in samples))


def planned(
    context: StudyContext,
    methods: Sequence[str],
    equivalents: Sequence[int | float],
    seeds: Iterable[int] = RANDOM_SEEDS,
) -> tuple[list[Choice], list[int]]:
    """Returns the choices of a comparison, controls first, and its budgets in patches, largest first.

    A choice may be unable to have a budget or to answer on this model; see `applicable`.

    Args:
        context: The model and the questions.
        methods: See `compare`.
        equivalents: See `compare`.
        seeds: See `compare`.

    Raises:
        FoveateError: A method or a budget cannot be used.
    """
    controls = (*CONTROLS, *(FRAME_CONTROLS if context.usable.video else ()))
    recipes, loaded, seeds = recipes_of((*controls, *methods)), context.loaded, tuple(seeds)
    counts, patches = context.counts(equivalents), context.tower.grid.patches
    budgets = context.counts([*counts, *own_budgets(methods, counts, patches, loaded.adapter.decoder.depth)])
    various = loaded.adapter.any_size or context.usable.video is not None
    fractions = [keep for keep in equivalents if various and isinstance(plain_keep(keep), float)]
    shares = frozenset(resolve_keep(keep, patches) for keep in fractions)
    return [
        choice
        for label, recipe in recipes.items()
        for choice in choices_of(label, recipe, loaded, seeds, shares, patches)
    ], budgets


def recipes_of(names: Iterable[str]) -> dict[str, Callable[..., Compressor]]:
    """Returns recipes by label; see `label_of`.

    Raises:
        FoveateError: A method is unknown, or two have the same label.
    """
    recipes: dict[str, Callable[..., Compressor]] = {}
    for name in dict.fromkeys(names):
        recipe, label = CONTROLS.get(name) or FRAME_CONTROLS.get(name) or method(name), label_of(name)
        if label in recipes or (label != name and label in METHODS):
            raise FoveateError(
                f"method {name!r}: {label!r} is the name of another method; rename the function or the file"
            )
        recipes[label] = recipe
    return recipes


def applicable(
    choices: Sequence[Choice], budgets: Sequence[int], context: StudyContext
) -> tuple[list[Choice], dict[str, Compressor], dict[str, dict[str, str]], dict[str, str]]:
    """Returns the choices that can have a budget and answer a question on this model.

    Args:
        choices: The choices.
        budgets: Budgets, largest first.
        context: The model and the questions.

    Returns:
        The choices; by label, their compressor at the largest budget that they can have; by family and budget, the
        reason why a choice cannot have it; by family, the reason why a choice cannot answer.
    """
    compressors, left_out = _at_largest_budget(choices, budgets)
    failures = _failures(choices, compressors, context)
    if not context.has_evidence and any(choice.family == "evidence" for choice in choices):
        failures |= {"evidence": "the data does not say where in the images the answers are"}
    able = [choice for choice in choices if choice.label in compressors and choice.family not in failures]
    return able, compressors, left_out, failures


def fallbacks_of(choices: Sequence[Choice], compressors: Mapping[str, Compressor]) -> list[str]:
    """Returns the methods that read received attention, because this tower has no [CLS].

    Args:
        choices: The choices.
        compressors: A compressor of each choice, by label.
    """
    return sorted({choice.family for choice in choices if isinstance(compressors[choice.label], Fallback)})


def choices_of(
    label: str,
    recipe: Callable[..., Compressor],
    loaded: LoadedModel,
    seeds: tuple[int, ...],
    shares: Collection[int] = (),
    patches: int | None = None,
) -> list[Choice]:
    """Returns the choices of a method, one per seed; their recipes take equivalent tokens.

    Args:
        label: Name of the method in tables.
        recipe: Its recipe.
        loaded: The model.
        seeds: Seeds of random methods.
        shares: The equivalent tokens of a typical image that stand for a share of each image's patches.
        patches: Number of patches of a typical image or video; None means an image of the tower's own size.
    """
    choice = partial(
        Choice,
        family=label,
        layers="",
        ranked=label not in (*CONTROLS, *FRAME_CONTROLS, *ORACLES) and turns_of(label.split("+")) == 1,
    )
    if label in BUDGETLESS:
        return [choice(label, recipe=recipe)]
    tower, depth = loaded.adapter.tower, loaded.adapter.decoder.depth
    options = options_on(recipe, loaded.adapter)
    fitting = partial(aligned, recipe, patches=patches or tower.grid.patches, depth=depth, **options)
    fitted = partial(_fitted, tower, fitting, shares)
    if "seed" not in signature(recipe).parameters:
        return [choice(label, recipe=fitted)]
    return [choice(f"{label}[{seed}]", recipe=partial(fitted, seed=seed)) for seed in seeds]


def _fitted(
    tower: Tower, fitting: Callable[..., Compressor], shares: Collection[int], equivalent: int, **options: int
) -> Compressor:
    return with_fallbacks(fitting(equivalent, shares=equivalent in shares, **options), tower)


def _at_largest_budget(
    choices: Sequence[Choice], budgets: Sequence[int]
) -> tuple[dict[str, Compressor], dict[str, dict[str, str]]]:
    """Returns compressors and failures.

    Args:
        choices: The choices.
        budgets: Budgets, largest first.

    Returns:
        By label, the compressor at the largest budget that the choice can have, if any; by family and budget, the
        reason why it cannot have the budget.
    """
    compressors: dict[str, Compressor] = {}
    left_out: dict[str, dict[str, str]] = {}
    for choice in choices:
        for budget in budgets:
            try:
                compressors.setdefault(choice.label, choice.recipe(budget))
            except BudgetError as error:
                left_out.setdefault(choice.family, {})[str(budget)] = str(error)
    return compressors, left_out


def _failures(
    choices: Sequence[Choice], compressors: Mapping[str, Compressor], context: StudyContext
) -> dict[str, str]:
    """Returns the reasons why choices cannot answer a question on this model, by family."""
    failures: dict[str, str] = {}
    with TemporaryDirectory() as folder:
        probes = _probes(context)
        whole = Encodings.of(context.loaded, media_of(probes), Path(folder) / "encodings")
        for choice in choices:
            if (compressor := compressors.get(choice.label)) is None:
                continue
            try:
                context.loaded.adapter.check(compressor.needs, compressor.cuts)
                small, _ = compressor.resized(context.loaded)
                resized = small.original is not None
                encodings = Encodings.of(small, media_of(probes), Path(folder) / choice.label) if resized else whole
                with torch.inference_mode():
                    Answering(encodings, compressor, 1).predict_step(probes)
            except (UnsupportedNeed, LayerError) as error:
                failures[choice.family] = str(error)
    return failures


def _probes(context: StudyContext) -> list[VQASample]:
    """Returns the first usable question, and the first about several images if that one is about one."""
    usable, longest = context.usable, context.config.max_new_tokens
    others = (sample for sample in context.samples if sample.several and not usable.several)
    return [usable, *islice((sample for sample in others if not failure_of(sample, context.loaded, longest)), 1)]


def _role(family: str, compressor: Compressor, context: StudyContext) -> str:
    """Returns "control", "oracle", "shared" for a choice that serves several questions, or `place_of`."""
    if compressor.shared_by > 1:
        return "shared"
    if family in CONTROLS or family in FRAME_CONTROLS:
        return "control"
    if family in ORACLES:
        return "oracle"
    return place_of(compressor, context.loaded, context.tower.grid.patches)


def place_of(compressor: Compressor, loaded: LoadedModel, patches: int | None = None) -> str:
    """Returns where tokens are dropped: before the decoder ("vision"), inside it ("decoder"), or "both".

    Args:
        compressor: The compressor.
        loaded: The model.
        patches: Number of patches of a typical image or video; None means an image of the tower's own size.
    """
    patches = patches or loaded.adapter.tower.grid.patches
    plan = compressor.plan(patches, loaded.adapter.decoder.depth)
    given = plan[0] < patches
    return "both" if given and fmean(plan) < plan[0] else "vision" if given else "decoder"
