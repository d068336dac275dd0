"""An ablation: a grid of named choices and budgets on one model and one split."""

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna

from foveate.compressors import Compressor, VisionCompressor
from foveate.core.errors import BudgetError, FoveateError
from foveate.core.layers import LayersFrom, resolve_layer, resolve_layers
from foveate.evaluation.config import EvalConfig
from foveate.evaluation.identity import identity_of
from foveate.methods import blind, contrast, edges, evidence, full, random, saturation, uniform, vtc_cls
from foveate.methods.fitting import BUDGETLESS, with_fallbacks
from foveate.models.backbone.adapter import Tower
from foveate.scorers import ClsAttention, ClsEnsemble
from foveate.studies.context import StudyContext
from foveate.studies.objective import Draw, Objective
from foveate.studies.opening import open_study
from foveate.studies.space import AnyTrial, Planned, Proposal, Space
from foveate.studies.study import enqueue, run_trials
from foveate.studies.study_folder import StudyFolder

RANDOM_SEEDS = range(5)


@dataclass(frozen=True)
class Choice:
    """One row of an ablation.

    Attributes:
        label: Unique name, such as "cls[2]" or "cls[2:]".
        family: "single", "suffix", "all", or the name of a method or control; its seeds share it.
        layers: The layers that it reads, as text.
        recipe: Function from a budget to a compressor.
        ranked: Whether it can be the study's best trial, as controls and oracles cannot.
    """

    label: str
    family: str
    layers: str
    recipe: Callable[[int], Compressor]
    ranked: bool = True

    @property
    def has_budget(self) -> bool:
        """True if its compressor depends on the budget, as those of `full` and `blind` do not."""
        return self.family not in BUDGETLESS


@dataclass(frozen=True)
class ChoiceGrid(Space):
    """The space of all choices at all budgets; those without a budget stand once.

    Attributes:
        choices: The rows.
        keeps: Budgets in patches.
    """

    choices: tuple[Choice, ...]
    keeps: tuple[int, ...]

    def suggest(self, trial: AnyTrial) -> Proposal:
        choices = {choice.label: choice for choice in self.choices}
        choice = choices[trial.suggest_categorical("scorer", list(choices))]
        keep = trial.suggest_categorical("keep", list(self.keeps)) if choice.has_budget else self.keeps[0]
        return Proposal(choice.recipe(keep), choice.label, choice.family, choice.layers, ranked=choice.ranked)

    @property
    def identity(self) -> dict[str, Any]:
        rows = {choice.label: [_compressor_at(choice, keep) for keep in self.keeps] for choice in self.choices}
        return {"scorers": {label: identity_of(row, label) for label, row in rows.items()}, "keep": list(self.keeps)}

    @property
    def cells(self) -> list[Planned]:
        """The trials that make up the grid."""
        cells = [
            {"scorer": choice.label} | ({"keep": keep} if choice.has_budget else {})
            for keep in self.keeps
            for choice in self.choices
        ]
        return [Planned(cell) for number, cell in enumerate(cells) if cell not in cells[:number]]


def ablate(
    folder: StudyFolder,
    config: EvalConfig,
    choices_for: Callable[[Tower], Sequence[Choice]],
    keep: Sequence[int | float],
    draw: Draw | None = None,
) -> optuna.Study:
    """Evaluates every choice at every budget, after checking the model, the data, the budgets and the layers.

    Args:
        folder: The study's folder.
        config: The evaluation; each cell replaces its compressor.
        choices_for: Function from the model's vision tower to the rows. The family "evidence" is left out if the data
            has no evidence.
        keep: Budgets: counts, or fractions of an image's patches.
        draw: See `Objective`.

    Raises:
        FoveateError: The model, data, a budget or a layer cannot be used; the message says why.
    """
    context = StudyContext.of(config)
    choices = choices_for(context.tower)
    choices = [choice for choice in choices if context.has_evidence or choice.family != "evidence"]
    keeps = context.counts(keep)
    for choice in choices:
        with suppress(BudgetError):  # the grid has no such cell
            compressor = with_fallbacks(choice.recipe(keeps[0]), context.tower)
            context.loaded.adapter.check(compressor.needs)
    grid = ChoiceGrid(tuple(choices), tuple(keeps))
    objective = Objective(config, grid, draw=draw)
    folder, study = open_study(folder, objective, context.identity, context.facts)
    enqueue(folder, study, grid.cells)
    run_trials(folder, study, objective)
    return study


def single(layer: int, tower: Tower) -> Choice:
    """Returns the [CLS] attention of one layer."""
    layer = resolve_layer(layer, tower.depth)
    return Choice(f"cls[{layer}]", "single", str(layer), compressor_of(ClsAttention(layer)))


def suffix(start: int, tower: Tower) -> Choice:
    """Returns the sum of [CLS] attention from a layer to the one that writes the features."""
    first = resolve_layers(LayersFrom(start), tower.depth, tower.feature_layer)[0]
    layers = f"{first}-{tower.feature_layer}"
    return Choice(f"cls[{first}:]", "suffix", layers, partial(vtc_cls, start_layer=first))


def every_layer(tower: Tower) -> Choice:
    """Returns the sum of [CLS] attention over all layers, including those after the features."""
    scorer = ClsEnsemble(tuple(range(tower.depth)))
    return Choice("cls[all]", "all", f"0-{tower.depth - 1}", compressor_of(scorer))


def controls(seeds: Iterable[int] = RANDOM_SEEDS) -> list[Choice]:
    """Returns the uncompressed model, no image, the evidence oracle, the even grid, pixel filters, random patches."""
    recipes = (full, blind, evidence, uniform, saturation, contrast, edges)
    plain = [Choice(recipe.__name__, recipe.__name__, "", recipe, ranked=False) for recipe in recipes]
    seeded = [(f"random[{seed}]", partial(random, seed=seed)) for seed in seeds]
    return [*plain, *(Choice(label, "random", "", recipe, ranked=False) for label, recipe in seeded)]


def layer_choices(tower: Tower, layers: tuple[int, ...] = ()) -> list[Choice]:
    """Returns single layers, suffixes that end where the features are written, all layers, and the controls.

    Args:
        tower: The model's vision tower.
        layers: Single layers and first layers of suffixes; empty means every layer.

    Raises:
        LayerError: A layer does not exist.
    """
    numbers = sorted({resolve_layer(layer, tower.depth) for layer in layers}) or range(tower.depth)
    suffixes = [suffix(layer, tower) for layer in numbers if layer < tower.feature_layer]
    return [*(single(layer, tower) for layer in numbers), *suffixes, every_layer(tower), *controls()]


def named_choices(tower: Tower, names: Sequence[str]) -> list[Choice]:
    """Returns the choices with these labels ("cls[-2]", "cls[1:]", "cls[all]"), and the controls.

    Raises:
        LayerError: A layer does not exist.
        FoveateError: A label has another form.
    """
    choices: dict[str, Choice] = {}
    for name in names:
        match re.fullmatch(r"cls\[(-?\d+)(:?)\]|cls\[(all)\]", name):
            case None:
                raise FoveateError(f'scorer "{name}" is unknown; write "cls[2]", "cls[2:]" or "cls[all]"')
            case found if found[3]:
                choice = every_layer(tower)
            case found if found[2]:
                choice = suffix(int(found[1]), tower)
            case found:
                choice = single(int(found[1]), tower)
        choices[choice.label] = choice
    return [*choices.values(), *controls()]


def compressor_of(scorer: ClsAttention | ClsEnsemble) -> Callable[[int], Compressor]:
    """Returns the recipe that keeps the patches with the highest scores."""
    return partial(VisionCompressor, scorer)


def _compressor_at(choice: Choice, keep: int) -> Compressor | None:
    """Returns the compressor of a cell, or None if the choice cannot have this budget."""
    try:
        return choice.recipe(keep)
    except BudgetError:
        return None
