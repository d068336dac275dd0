"""Methods by name, and their settings for a model and a budget."""

from ast import literal_eval
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from inspect import Parameter, Signature, signature
from statistics import fmean
from typing import Any, get_origin

from torch import nn

from foveate.compressors import Compressor, Fallback
from foveate.core.budget import plain_keep, resolve_keep
from foveate.core.errors import BudgetError, FoveateError, OptionError, UnknownMethod, shown
from foveate.core.layers import AtDepth, BlockAtDepth, blocks_in_decoder, resolve_layer
from foveate.core.needs import ClsRows, Need, ReceivedRows
from foveate.core.values import Misfit, expected, fitted
from foveate.methods.registry import METHODS, VARIANTS, parts_of
from foveate.models.backbone.adapter import Adapter, Tower
from foveate.models.loading.load import LoadedModel, adapt

BUDGETLESS = ("full", "blind")


@dataclass(frozen=True)
class Variant:
    """A recipe whose compressor is told what to do with tiles; options are those of the recipe.

    Attributes:
        recipe: From a budget to a compressor.
        per_tile: See `Compressor.tiled`.
        separators: Likewise.
    """

    recipe: Callable[..., Compressor]
    per_tile: bool = False
    separators: bool = True

    def __call__(self, *args: Any, **options: Any) -> Compressor:  # noqa: ANN401 (those of the recipe)
        return self.recipe(*args, **options).tiled(self.per_tile, self.separators)

    @property
    def __signature__(self) -> Signature:
        return signature(self.recipe, eval_str=True)

    @property
    def __name__(self) -> str:
        told = "+per_tile" * self.per_tile + "+no_separators" * (not self.separators)
        return getattr(self.recipe, "__name__", str(self.recipe)) + told


def method(name: str) -> Callable[..., Compressor]:
    """A recipe by its name in `METHODS`, or a user's own as "package.module:function".

    For models that cut images into tiles a name may go on: in "vtc_cls+per_tile" every tile has its own share of the
    budget, and "vtc_cls+no_separators" drops the tokens that end the rows of LLaVA-NeXT.

    Raises:
        UnknownMethod: There is no such method.
    """
    plain, variants = parts_of(name)
    if variants:
        return Variant(method(plain), **{k: v for variant in variants for k, v in VARIANTS[variant].items()})
    if plain in METHODS:
        return METHODS[plain]
    module, _, function = plain.partition(":")
    return _own(plain, module, function)


def _own(name: str, module: str, function: str) -> Callable[..., Compressor]:
    """A user's recipe; only what a person has typed comes here, never what a file says."""
    expected = "expected package.module:function with the package on PYTHONPATH, a function from keep to a compressor"
    try:
        recipe = getattr(import_module(module), function)
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # the last two: of names that are none
        raise UnknownMethod(f"method {shown(name)} cannot be imported ({error}); {expected}") from error
    try:
        if "keep" in signature(recipe).parameters:
            return recipe
    except (TypeError, ValueError):  # it is no function, or one that does not say what it takes
        pass
    raise UnknownMethod(f"method {shown(name)} is {shown(recipe)}, which takes no keep; {expected}")


def with_fallbacks(compressor: Compressor, model: nn.Module | LoadedModel | Tower) -> Compressor:
    """The compressor itself, or its `Fallback` where the model's vision tower cannot answer what it reads.

    A tower without [CLS] answers by the attention that patches receive, and for a layer that only sees windows the
    nearest one that sees the whole image, of two the deeper.
    """
    tower = model if isinstance(model, Tower) else _adapter(model).tower
    whole = [layer for layer in reversed(range(tower.depth)) if layer not in tower.windowed_layers]
    nearest = tuple(min(whole, key=lambda other: abs(other - layer)) for layer in range(tower.depth))
    fallback = Fallback(compressor, nearest, tower.feature_layer)
    lacks = not tower.has_cls and any(isinstance(need, ClsRows) for need in compressor.needs)
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


def for_model(name: str, keep: object, given: Mapping[str, Any], adapter: Adapter) -> Compressor:
    """The method of a name with its authors' budget, `with_fallbacks` for a model; missing options are scaled.

    Args:
        name: See `method`.
        keep: The budget; None for methods that have one of their own.
        given: Options of the recipe; whole numbers may be floats, and tuples lists or their text, such as "[8, 16]".
        adapter: Of the model.

    Raises:
        UnknownMethod: There is no such method.
        BudgetError: The method needs a budget, or this is none.
        FoveateError: The method has no such option, or the value is not of its kind.
    """
    recipe = method(name)
    parameters = {n: p for n, p in signature(recipe, eval_str=True).parameters.items() if n != "keep"}
    if unknown := sorted(set(given) - set(parameters)):
        known = ", ".join(str(parameter) for parameter in parameters.values()) or "none"
        raise FoveateError(f"option {unknown[0]!r} of {name} is unknown; its options: {known}")
    keep = None if keep is None else plain_keep(keep)
    if keep is None and signature(recipe).parameters["keep"].default is Parameter.empty:
        raise BudgetError(f"{name} needs keep: how many patches stay, as a count or a fraction such as 0.25")
    options = options_on(recipe, adapter)
    options |= {n: _typed(n, parameters[n], value) for n, value in given.items()}
    return with_fallbacks(recipe(**options) if keep is None else recipe(keep=keep, **options), adapter.tower)


def aligned(
    recipe: Callable[..., Compressor], equivalent: int | float, patches: int, depth: int, **options: object
) -> Compressor:
    """The recipe whose expected equivalent tokens (mean over the decoder's blocks) are nearest to a number.

    The budget is varied, or the block where a method has no budget.

    Args:
        recipe: From `keep` and options to a compressor.
        equivalent: Wanted equivalent tokens of one image.
        patches: Of one image.
        depth: Blocks of the language model.
        options: For the recipe.

    Raises:
        BudgetError: The method cannot come within a token, or a tenth, of that number.
    """
    candidates = [dict(options, keep=keep) for keep in range(1, patches + 1)]
    if "layer" in options and len({recipe(**c) for c in candidates[:2]}) == 1:
        candidates = [dict(options, keep=patches, layer=layer) for layer in range(1, depth)]
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
    if gap > max(1.0, equivalent / 10):
        raise BudgetError(
            f"{getattr(recipe, '__name__', recipe)} cannot come near {equivalent:g} equivalent tokens of {patches} in "
            f"{depth} blocks: nearest are {tokens:g}"
        )
    return compressor


def at_budget(name: str, budget: int | float, adapter: Adapter, patches: int | None = None) -> Compressor:
    """A method by its name, `with_fallbacks` for a model, at the cost of a number of visual tokens; see `aligned`.

    Args:
        name: See `method`.
        budget: Equivalent tokens: a count, or a fraction of the patches.
        adapter: Of the model.
        patches: Of an image; None means one of the tower's own, or a typical, size.

    Raises:
        FoveateError: There is no such method, or it cannot have this budget.
    """
    recipe = method(name)
    patches, depth = patches or adapter.tower.grid.patches, adapter.decoder.depth
    count = resolve_keep(budget, patches)
    if name in BUDGETLESS:
        return recipe()
    fitting = aligned(recipe, count, patches, depth, **options_on(recipe, adapter))
    return with_fallbacks(fitting, adapter.tower)


def at_budgets(
    names: Sequence[str], budgets: Sequence[int | float], adapter: Adapter, patches: int
) -> tuple[dict[tuple[str, int], Compressor], dict[tuple[str, int], str]]:
    """Every method `at_budget`, by name and count of equivalent tokens, and why some cannot have it.

    Raises:
        FoveateError: There is no such method, or no such budget.
    """
    found: dict[tuple[str, int], Compressor] = {}
    unable: dict[tuple[str, int], str] = {}
    for name in dict.fromkeys(names):
        method(name)
        for budget in dict.fromkeys(resolve_keep(budget, patches) for budget in budgets):
            try:
                found[name, budget] = at_budget(name, budget, adapter, patches)
            except BudgetError as error:
                unable[name, budget] = str(error)
    return found, unable


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
