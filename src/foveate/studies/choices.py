"""What an ablation varies: a grid of named choices, each a recipe from a budget to a compressor."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from foveate.compressors import Compressor, VisionCompressor
from foveate.core.errors import BudgetError, FoveateError
from foveate.core.layers import LayersFrom, resolve_layer, resolve_layers
from foveate.evaluation.identity import identity_of
from foveate.methods import blind, contrast, edges, evidence, full, random, saturation, uniform, vtc_cls
from foveate.models.families.llava import Tower
from foveate.scorers import ClsAttention, ClsEnsemble
from foveate.studies.space import AnyTrial, Planned, Proposal, Space

RANDOM_SEEDS = range(5)


@dataclass(frozen=True)
class Choice:
    """One row of an ablation.

    Attributes:
        label: Unique name, such as "cls[2]" or "cls[2:]".
        family: "single", "suffix", "all", or the name of a method or control; its seeds share it.
        layers: The layers it reads, as text.
        recipe: From a budget to a compressor.
    """

    label: str
    family: str
    layers: str
    recipe: Callable[[int], Compressor]


@dataclass(frozen=True)
class ChoiceGrid(Space):
    """All choices at all budgets.

    Attributes:
        choices: The rows.
        keeps: Budgets in patches.
    """

    choices: tuple[Choice, ...]
    keeps: tuple[int, ...]

    def suggest(self, trial: AnyTrial) -> Proposal:
        choices = {choice.label: choice for choice in self.choices}
        choice = choices[trial.suggest_categorical("scorer", list(choices))]
        keep = trial.suggest_categorical("keep", list(self.keeps))
        return Proposal(choice.recipe(keep), choice.label, choice.family, choice.layers)

    @property
    def identity(self) -> dict[str, Any]:
        made = {choice.label: [_made(choice, keep) for keep in self.keeps] for choice in self.choices}
        return {"scorers": {label: identity_of(some, label) for label, some in made.items()}, "keep": list(self.keeps)}

    @property
    def cells(self) -> list[Planned]:
        """The trials that make up the grid."""
        return [Planned({"scorer": c.label, "keep": keep}) for keep in self.keeps for c in self.choices]


def single(layer: int, tower: Tower) -> Choice:
    """One layer's [CLS] attention."""
    layer = resolve_layer(layer, tower.depth)
    return Choice(f"cls[{layer}]", "single", str(layer), partial(_scored, ClsAttention(layer)))


def suffix(start: int, tower: Tower) -> Choice:
    """The sum from a layer to the one that writes the features."""
    first = resolve_layers(LayersFrom(start), tower.depth, tower.feature_layer)[0]
    layers = f"{first}-{tower.feature_layer}"
    return Choice(f"cls[{first}:]", "suffix", layers, partial(vtc_cls, start_layer=first))


def every_layer(tower: Tower) -> Choice:
    """The sum of all layers, also those behind the features."""
    scorer = ClsEnsemble(tuple(range(tower.depth)))
    return Choice("cls[all]", "all", f"0-{tower.depth - 1}", partial(_scored, scorer))


def controls(seeds: Iterable[int] = RANDOM_SEEDS) -> list[Choice]:
    """The uncompressed model, no image, the evidence oracle, the even grid, filters of pixels and random patches."""
    recipes = (full, blind, evidence, uniform, saturation, contrast, edges)
    plain = [Choice(recipe.__name__, recipe.__name__, "", recipe) for recipe in recipes]
    return [*plain, *(Choice(f"random[{seed}]", "random", "", partial(random, seed=seed)) for seed in seeds)]


def layer_choices(tower: Tower, layers: tuple[int, ...] = ()) -> list[Choice]:
    """Every single layer, every suffix that ends where the features are written, and all layers; then the controls.

    Args:
        tower: Of the model.
        layers: Only these single layers and starts of suffixes; empty means every layer.

    Raises:
        LayerError: A layer does not exist.
    """
    numbers = sorted({resolve_layer(layer, tower.depth) for layer in layers}) or range(tower.depth)
    suffixes = [suffix(layer, tower) for layer in numbers if layer < tower.feature_layer]
    return [*(single(layer, tower) for layer in numbers), *suffixes, every_layer(tower), *controls()]


def named_choices(tower: Tower, names: Sequence[str]) -> list[Choice]:
    """The choices with these labels ("cls[-2]", "cls[1:]", "cls[all]"), then the controls.

    Raises:
        LayerError: A layer does not exist.
        FoveateError: A label is not understood.
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


def _made(choice: Choice, keep: int) -> Compressor | None:
    """Returns the compressor of a cell; None where the choice cannot have this budget."""
    try:
        return choice.recipe(keep)
    except BudgetError:
        return None


def _scored(scorer: ClsAttention | ClsEnsemble, keep: int) -> Compressor:
    return VisionCompressor(scorer, keep)
