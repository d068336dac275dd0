"""Methods by name, set for a model and a budget."""

from ast import literal_eval
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from inspect import Parameter, Signature, signature
from statistics import fmean
from typing import Any, get_origin

from torch import nn

from foveate.compressors import Compressor, Fallback, FirstChoice
from foveate.compressors.recipe_file import read
from foveate.core.budget import plain_keep, resolve_keep
from foveate.core.errors import BudgetError, FoveateError, OptionError, UnknownMethod, shown
from foveate.core.layers import AtDepth, BlockAtDepth, blocks_in_decoder, resolve_layer
from foveate.core.needs import ClsRows, FrameVectors, Need, PoolingRows, ReceivedRows
from foveate.core.values import Misfit, expected, fitted
from foveate.methods.from_file import FromFile, warn_of_model
from foveate.methods.own import own_recipe
from foveate.methods.registry import METHODS, PLACES, VARIANTS, is_recipe_file, parts_of, turns_of
from foveate.models.backbone.adapter import Adapter, Tower
from foveate.models.loading.load import LoadedModel, adapt

BUDGETLESS = ("full", "blind")


@dataclass(frozen=True)
class Variant:
    """A recipe with settings for tiles, positions and questions about one image; it takes the options of the recipe.

    Attributes:
        recipe: Function from a budget and options to a compressor.
        per_tile: See `Compressor.tiled`.
        separators: See `Compressor.tiled`.
        own_positions: See `Compressor.tiled`.
        turns: Number of questions about an image that share a choice (`FirstChoice`).
    """

    recipe: Callable[..., Compressor]
    per_tile: bool = False
    separators: bool = True
    own_positions: bool = False
    turns: int = 1

    def __call__(self, *args: Any, **options: Any) -> Compressor:  # noqa: ANN401 (those of the recipe)
        compressor = self.recipe(*args, **options)
        if self.per_tile or not self.separators or self.own_positions:
            compressor = compressor.tiled(self.per_tile, self.separators, self.own_positions)
        return FirstChoice(compressor, self.turns) if self.turns > 1 else compressor

    @property
    def __signature__(self) -> Signature:
        return signature(self.recipe, eval_str=True)

    @property
    def __name__(self) -> str:
        suffix = "+per_tile" * self.per_tile + "+no_separators" * (not self.separators)
        suffix += "+own_positions" * self.own_positions
        suffix += f"+first_of_{self.turns}" * (self.turns > 1)
        return getattr(self.recipe, "__name__", str(self.recipe)) + suffix


def method(name: str) -> Callable[..., Compressor]:
    """Returns a recipe by its name in `METHODS`, by the path of a recipe file, or by that of a function.

    A function is "./file.py:function" or "package.module:function".

    Variants are for models that cut images into tiles: "vtc_cls+per_tile" gives every tile its own share of the budget,
    and "vtc_cls+no_separators" drops the tokens that end the rows of LLaVA-NeXT. "vtc_cls+own_positions" numbers kept
    patches by their own positions instead of consecutively, which tells the frame in videos. With "fastv+first_of_6"
    the choice for the first of six questions about an image serves all of them, in evaluations.

    Args:
        name: The name.

    Raises:
        UnknownMethod: The method is unknown.
        RecipeError: The file is no recipe.
    """
    plain, variants = parts_of(name)
    if variants:
        tiled = {k: v for variant in variants for k, v in VARIANTS.get(variant, {}).items()}
        return Variant(method(plain), turns=turns_of(variants), **tiled)
    if plain in METHODS:
        return METHODS[plain]
    return FromFile(read(plain), plain) if is_recipe_file(plain) else own_recipe(plain)


def with_fallbacks(compressor: Compressor, model: nn.Module | LoadedModel | Tower) -> Compressor:
    """Returns the compressor, or its `Fallback` if the model's vision tower cannot answer its needs.

    In a tower without [CLS] or without a pooling head the fallback is the attention that patches receive, and the mean
    of a frame's features. A layer that sees only windows of the image is replaced by the nearest one that sees the
    whole image; of two, by the deeper one.

    Args:
        compressor: The compressor.
        model: The model, or its vision tower.
    """
    tower = model if isinstance(model, Tower) else _adapter(model).tower
    whole = [layer for layer in reversed(range(tower.depth)) if layer not in tower.windowed_layers]
    nearest = tuple(min(whole, key=lambda other: abs(other - layer)) for layer in range(tower.depth))
    fallback = Fallback(compressor, nearest, tower.feature_layer, tower.pools)
    of_pooling: tuple[type[Need], ...] = () if tower.pools else (PoolingRows, FrameVectors)
    missing = of_pooling if tower.has_cls else (*of_pooling, ClsRows)
    lacks = any(isinstance(need, missing) for need in compressor.needs)
    return fallback if lacks or any(_reads_windowed_layer(need, tower) for need in compressor.needs) else compressor


def _adapter(model: nn.Module | LoadedModel) -> Adapter:
    return model.adapter if isinstance(model, LoadedModel) else adapt(model)


def _reads_windowed_layer(need: Need, tower: Tower) -> bool:
    return isinstance(need, ReceivedRows) and resolve_layer(need.layer, tower.depth) in tower.windowed_layers


def options_for(
    recipe: Callable[..., Compressor],
    tower_depth: int,
    decoder_depth: int,
    deepstack_levels: int = 0,
    keeps_cls: bool = True,
) -> dict[str, Any]:
    """Returns the options of a recipe whose defaults depend on the model.

    These are the options with an `AtDepth` or `BlockAtDepth` as default, and `cls`.

    Args:
        recipe: Function from a budget and options to a compressor.
        tower_depth: Number of layers of the vision tower.
        decoder_depth: Number of blocks of the language model.
        deepstack_levels: Number of leading blocks that receive DeepStack features; no cut may come before their end.
        keeps_cls: Whether [CLS] can be a token.
    """
    options: dict[str, Any] = {}
    for name, parameter in signature(recipe).parameters.items():
        default = parameter.default
        blocks = default if isinstance(default, tuple) else (default,)
        if blocks and all(isinstance(block, BlockAtDepth) for block in blocks):
            found = blocks_in_decoder(blocks, decoder_depth, max(1, deepstack_levels))
            options[name] = found if isinstance(default, tuple) else found[0]
        elif isinstance(default, AtDepth):
            options[name] = default.in_tower(tower_depth)
        elif name == "cls" and not keeps_cls:
            options[name] = False
    return options


def options_on(recipe: Callable[..., Compressor], adapter: Adapter) -> dict[str, Any]:
    """Returns `options_for` the model of an adapter."""
    return options_for(recipe, adapter.tower.depth, adapter.decoder.depth, adapter.deepstack_levels, adapter.keeps_cls)


def needs_keep(recipe: Callable[..., Compressor]) -> bool:
    """Returns whether a recipe has no default budget."""
    return signature(recipe).parameters["keep"].default is Parameter.empty


def for_model(name: str, keep: object, given: Mapping[str, Any], adapter: Adapter) -> Compressor:
    """Returns a method for a model, `with_fallbacks`; layers that are not given are scaled to its depth.

    Args:
        name: Name of the method; see `method`.
        keep: The budget, in the authors' definition; None for the method's default.
        given: Options of the recipe; whole numbers may be floats, and tuples may be lists or text such as "[8, 16]".
        adapter: The model's adapter.

    Raises:
        UnknownMethod: The method is unknown.
        BudgetError: The method needs a budget, or `keep` is not a budget.
        FoveateError: The option is unknown, or its value has the wrong type.
    """
    recipe = method(name)
    warn_of_model(name, adapter)
    if keep is not None and is_recipe_file(name):
        raise BudgetError(f"{name}: keep={keep}: the budget of a recipe file stands in the file; leave keep out")
    parameters = {n: p for n, p in signature(recipe, eval_str=True).parameters.items() if n != "keep"}
    if unknown := sorted(set(given) - set(parameters)):
        known = ", ".join(str(parameter) for parameter in parameters.values()) or "none"
        raise FoveateError(f"option {unknown[0]!r} of {name} is unknown; its options: {known}")
    keep = None if keep is None else plain_keep(keep)
    if keep is None and needs_keep(recipe):
        raise BudgetError(f"{name} needs keep: how many patches to keep, as a count or a fraction such as 0.25")
    options = options_on(recipe, adapter)
    options |= {n: _typed(n, parameters[n], value) for n, value in given.items()}
    return with_fallbacks(recipe(**options) if keep is None else recipe(keep=keep, **options), adapter.tower)


def aligned(
    recipe: Callable[..., Compressor],
    equivalent: int | float,
    patches: int,
    depth: int,
    shares: bool = False,
    **options: object,
) -> Compressor:
    """Returns the compressor of a recipe whose expected equivalent tokens are nearest to a number.

    The budget is varied; for methods without a budget, the block of the cut.

    Args:
        recipe: Function from `keep` and options to a compressor.
        equivalent: Target number of equivalent tokens of one image.
        patches: Number of patches of one image.
        depth: Number of blocks of the language model.
        shares: Whether the budget is a share of each image's patches, and not a count.
        options: Options of the recipe.

    Raises:
        BudgetError: No setting is within one token, or a tenth, of that number.
    """
    keeps = [count / patches if shares else count for count in range(1, patches + 1)]
    candidates = [dict(options, keep=keep) for keep in keeps]
    if "layer" in options and len({recipe(**c) for c in candidates[:2]}) == 1:
        candidates = [dict(options, keep=keeps[-1], layer=layer) for layer in range(1, depth)]
    reached: list[tuple[float, float, Compressor]] = []
    for candidate in candidates:
        with suppress(BudgetError):
            compressor = recipe(**candidate)
            if not isinstance(compressor, Compressor):
                raise UnknownMethod(
                    f"{getattr(recipe, '__name__', recipe)} gave {shown(compressor)}; expected a compressor, such as a "
                    "VisionCompressor"
                )
            tokens = fmean(compressor.plan(patches, depth))
            reached.append((abs(tokens - equivalent), tokens, compressor))
    gap, tokens, compressor = min(reached, key=lambda one: one[0])
    if gap > tolerance(equivalent):
        raise BudgetError(
            f"{getattr(recipe, '__name__', recipe)} cannot come near {equivalent:g} equivalent tokens of {patches} in "
            f"{depth} blocks: nearest are {tokens:g}"
        )
    return compressor


def at_budget(name: str, budget: int | float | None, adapter: Adapter, patches: int | None = None) -> Compressor:
    """Returns a method for a model, `with_fallbacks`, at a number of equivalent tokens; see `aligned`.

    Args:
        name: Name of the method; see `method`.
        budget: Equivalent tokens: a count, or a fraction of the patches; None means the method's default, or that of a
            recipe file.
        adapter: The model's adapter.
        patches: Number of patches of an image; None means an image of the tower's own or of a typical size.

    Raises:
        FoveateError: The method is unknown, or cannot have this budget.
    """
    if budget is None:
        return for_model(name, None, {}, adapter)
    recipe = method(name)
    warn_of_model(name, adapter)
    patches, depth = patches or adapter.tower.grid.patches, adapter.decoder.depth
    count = resolve_keep(budget, patches)
    if name in BUDGETLESS:
        return recipe()
    fitting = aligned(recipe, count, patches, depth, **options_on(recipe, adapter))
    return with_fallbacks(fitting, adapter.tower)


def at_budgets(
    names: Sequence[str], budgets: Sequence[int | float], adapter: Adapter, patches: int
) -> tuple[dict[tuple[str, int], Compressor], dict[tuple[str, int], str]]:
    """Returns every method `at_budget` by name and equivalent tokens, and the errors of those that cannot have it.

    Args:
        names: Names of the methods.
        budgets: The budgets; see `at_budget`. Those of `own_budgets` are added.
        adapter: The model's adapter.
        patches: Number of patches of an image.

    Raises:
        FoveateError: A method is unknown, or a budget is out of range.
    """
    found: dict[tuple[str, int], Compressor] = {}
    unable: dict[tuple[str, int], str] = {}
    counts = dict.fromkeys(resolve_keep(budget, patches) for budget in budgets)
    counts |= dict.fromkeys(own_budgets(names, counts, patches, adapter.decoder.depth))
    for name in dict.fromkeys(names):
        method(name)
        for budget in counts:
            try:
                found[name, budget] = at_budget(name, budget, adapter, patches)
            except BudgetError as error:
                unable[name, budget] = str(error)
    return found, unable


def sharing(names: Iterable[str], turns: int) -> dict[str, str]:
    """Returns for each method, but controls, that reads the question the name of its variant with shared choices.

    Args:
        names: Names of methods.
        turns: Number of questions about an image that share a choice.

    Raises:
        FoveateError: A method is unknown.
    """
    shared = {}
    for name in dict.fromkeys(names):
        recipe, (plain, variants) = method(name), parts_of(name)
        if PLACES.get(plain) == "control" or turns_of(variants) > 1:
            continue
        if (recipe(keep=64) if needs_keep(recipe) else recipe()).per_question:
            shared[name] = f"{name}+first_of_{turns}"
    return shared


def own_budgets(names: Iterable[str], budgets: Iterable[int], patches: int, depth: int) -> list[int]:
    """Returns the equivalent tokens of recipe files that have none of some budgets.

    Args:
        names: Names of methods, recipe files among them.
        budgets: Equivalent tokens.
        patches: Number of patches of an image.
        depth: Number of blocks of the language model.

    Raises:
        FoveateError: A method is unknown, or a file is no recipe.
    """
    found = dict.fromkeys(budgets)
    first = len(found)
    for name in names:
        if is_recipe_file(name):
            tokens = fmean(method(name)().plan(patches, depth))
            if all(abs(tokens - budget) > tolerance(budget) for budget in found):
                found[max(1, round(tokens))] = None
    return list(found)[first:]


def tolerance(equivalent: float) -> float:
    """Returns by how much the equivalent tokens of a method may differ from a budget."""
    return max(1.0, equivalent / 10)


def _typed(name: str, parameter: Parameter, value: Any) -> Any:  # noqa: ANN401 (of any option)
    """Returns the value of an option in the type that the recipe declares.

    Raises:
        OptionError: The value is not of that type.
    """
    hint = type(parameter.default) if parameter.annotation is Parameter.empty else parameter.annotation
    if get_origin(hint) is tuple and isinstance(value, str):
        with suppress(ValueError, SyntaxError):
            value = literal_eval(value)
    try:
        return fitted(value, hint)
    except Misfit:
        raise OptionError(f"{name}={shown(value)}: expected {expected(hint)}") from None
