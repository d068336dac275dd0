"""A comparison: methods and controls at aligned budgets on one model and one split."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from inspect import signature
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import optuna
import torch

from foveate.compressors import Compressor, Fallback
from foveate.core.budget import resolve_keep
from foveate.core.errors import BudgetError, FoveateError, LayerError, UnsupportedNeed
from foveate.data.sample import VQASample, images_of
from foveate.evaluation.config import EvalConfig, checkpoint_identity
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.module import Answering
from foveate.evaluation.names import Existing
from foveate.evaluation.run import cached_load, data_of, first_usable
from foveate.methods import METHODS
from foveate.methods.fitting import BUDGETLESS, aligned, method, options_on, with_fallbacks
from foveate.models.backbone.adapter import Tower
from foveate.models.loading.load import LoadedModel
from foveate.profiling.shapes import DecoderShape
from foveate.studies.ablation import run_grid
from foveate.studies.choices import RANDOM_SEEDS, Choice, ChoiceGrid
from foveate.studies.objective import Draw
from foveate.studies.study_folder import StudyFolder

# rows of every comparison
CONTROLS = {
    name: METHODS[name]
    for name in (
        *(*BUDGETLESS, "random", "uniform", "pool", "downsample"),
        *("saturation", "contrast", "edges", "random_inside"),
    )
}
ORACLES = ("evidence", "response_attention")
Reasons = dict[str, dict[str, str]]  # method -> budget -> why it has no cell there


def compare(
    name: str,
    config: EvalConfig,
    methods: Sequence[str] = tuple(METHODS),
    equivalents: Sequence[int | float] = (0.5,),
    seeds: Iterable[int] = RANDOM_SEEDS,
    storage: str | None = None,
    workers: int = 1,
    draw: Draw | None = None,
    existing: Existing = "refuse",
) -> optuna.Study:
    """Evaluates every method at every budget; the controls take part unasked.

    A method is set so that the mean of its visual tokens over the decoder's blocks comes nearest to the budget. What
    cannot reach a budget, or cannot run on this model, is no cell of the grid; `left_out` and `not_applicable` among
    the study's facts say why. Methods with a `seed` run once per seed.

    Args:
        name: Of the study.
        config: Model, data and place; its compressor is replaced by each cell's.
        methods: Names in `METHODS`, or a user's own as "package.module:function".
        equivalents: Budgets in equivalent tokens: counts, or fractions of an image's patches.
        seeds: Of methods that draw.
        storage: See `StudyFolder`.
        workers: Processes on this machine.
        draw: See `Objective`.
        existing: See `studies.place`.

    Raises:
        FoveateError: Something in the configuration cannot be used; the message says what.
    """
    recipes = _recipes(methods)
    loaded = cached_load(config.model, config.device, config.dtype)
    samples, questions = data_of(config.data, config.split, config.limit, config.seed)
    tower, depth = loaded.adapter.tower, loaded.adapter.decoder.depth
    patches = tower.grid.patches
    budgets = sorted({resolve_keep(budget, patches) for budget in equivalents}, reverse=True)
    if not budgets:
        raise BudgetError(f"no budget is given: keep 1..{patches} equivalent tokens, or a fraction of the patches")
    choices = [choice for label, recipe in recipes.items() for choice in _choices(label, recipe, loaded, tuple(seeds))]
    choices, left_out = _reaching(choices, budgets)
    choices, not_applicable = _running(choices, left_out, budgets, loaded, first_usable(config, samples, loaded))
    if "evidence" in recipes and not any(sample.things.known for sample in samples):
        choices = [choice for choice in choices if choice.family != "evidence"]
        not_applicable |= {"evidence": "the data does not say where in the images the answers are"}
    identity = config.identity(checkpoint_identity(loaded), questions)
    del identity["compressor"]  # each cell has its own
    facts = {
        "model": config.model,
        "patches": patches,
        "grid": [tower.grid.rows, tower.grid.columns],
        "depth": tower.depth,
        "feature_layer": tower.feature_layer,
        "decoder_depth": depth,
        "decoder": asdict(DecoderShape.of(loaded.adapter.text_config.to_dict())),
        "roles": {c.family: _role(c, left_out, budgets, patches, depth) for c in choices},
        "left_out": left_out,
        "not_applicable": not_applicable,
        "fallbacks": sorted({c.family for c in choices if _is_fallback(c, left_out, budgets)}),
    }
    grid = ChoiceGrid(tuple(choices), tuple(budgets))
    place = StudyFolder(name, config.out, storage, existing=existing)
    return run_grid(place, config, grid, draw, identity, facts, workers)


def _recipes(names: Iterable[str]) -> dict[str, Callable[..., Compressor]]:
    """Controls first; a user's own is called by its function."""
    recipes: dict[str, Callable[..., Compressor]] = {}
    for name in dict.fromkeys((*CONTROLS, *names)):
        recipe, label = CONTROLS.get(name) or method(name), name.rpartition(":")[2]
        if label in recipes or (label != name and label in METHODS):
            raise FoveateError(f"method {name!r}: another one is called {label!r} already, rename the function")
        recipes[label] = recipe
    return recipes


def _choices(
    label: str, recipe: Callable[..., Compressor], loaded: LoadedModel, seeds: tuple[int, ...]
) -> list[Choice]:
    """One per seed; `keep` of their recipes are equivalent tokens."""
    if label in BUDGETLESS:
        return [Choice(label, label, "", recipe)]
    tower, depth = loaded.adapter.tower, loaded.adapter.decoder.depth
    options = options_on(recipe, loaded.adapter)
    fixed = partial(_suited, tower, partial(aligned, recipe, patches=tower.grid.patches, depth=depth, **options))
    if "seed" not in signature(recipe).parameters:
        return [Choice(label, label, "", fixed)]
    return [Choice(f"{label}[{seed}]", label, "", partial(fixed, seed=seed)) for seed in seeds]


def _suited(tower: Tower, recipe: Callable[..., Compressor], equivalent: int, **options: int) -> Compressor:
    return with_fallbacks(recipe(equivalent, **options), tower)


def _reaching(choices: Sequence[Choice], budgets: Sequence[int]) -> tuple[list[Choice], Reasons]:
    """Those that reach a budget, and of all the budgets they do not reach."""
    left_out: Reasons = {}
    for choice in choices:
        for budget in budgets:
            try:
                choice.recipe(budget)
            except BudgetError as error:
                left_out.setdefault(choice.family, {})[str(budget)] = str(error)
    return [choice for choice in choices if len(left_out.get(choice.family, {})) < len(budgets)], left_out


def _running(
    choices: Sequence[Choice], left_out: Reasons, budgets: Sequence[int], loaded: LoadedModel, sample: VQASample
) -> tuple[list[Choice], dict[str, str]]:
    """Those that answer one question on this model, and why the others do not."""
    why: dict[str, str] = {}
    with TemporaryDirectory() as folder:
        encodings = Encodings.of(loaded, images_of([sample]), Path(folder) / "encodings")
        for choice in choices:
            try:
                compressor = choice.recipe(_first(choice, left_out, budgets))
                loaded.adapter.check(compressor.needs, compressor.cuts)
                with torch.inference_mode():
                    Answering(encodings, compressor, max_new_tokens=1).predict_step([sample])
            except (UnsupportedNeed, LayerError) as error:
                why[choice.family] = str(error)
    return [choice for choice in choices if choice.family not in why], why


def _first(choice: Choice, left_out: Mapping[str, Mapping[str, str]], budgets: Sequence[int]) -> int:
    return next(budget for budget in budgets if str(budget) not in left_out.get(choice.family, {}))


def _is_fallback(choice: Choice, left_out: Reasons, budgets: Sequence[int]) -> bool:
    return isinstance(choice.recipe(_first(choice, left_out, budgets)), Fallback)


def _role(choice: Choice, left_out: Reasons, budgets: Sequence[int], patches: int, depth: int) -> str:
    """Where a method drops tokens: before the language model, inside it, or both; or what else it is there for."""
    if choice.family in CONTROLS:
        return "control"
    if choice.family in ORACLES:
        return "oracle"
    plan = choice.recipe(_first(choice, left_out, budgets)).plan(patches, depth)
    given = plan[0] < patches
    return "both" if given and fmean(plan) < plan[0] else "vision" if given else "decoder"
