"""Methods by name, and their settings for a model and a budget."""

from ast import literal_eval
from collections.abc import Callable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from inspect import Parameter, signature
from statistics import fmean
from typing import Any

from foveate.compression import Compressor
from foveate.core.errors import BudgetError, FoveateError, UnknownMethod
from foveate.methods import METHODS

_VISION_BLOCKS, _DECODER_BLOCKS = 24, 32  # of the models that the authors' layer numbers are for


def method(name: str) -> Callable[..., Compressor]:
    """A recipe by its name in `METHODS`, or a user's own as "package.module:function".

    Raises:
        UnknownMethod: There is no such method.
    """
    if name in METHODS:
        return METHODS[name]
    module, _, function = name.partition(":")
    if not function:
        near = get_close_matches(name, METHODS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(METHODS)}."
        raise UnknownMethod(f"method {name!r} is unknown; {hint} Your own is given as package.module:function")
    try:
        return getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UnknownMethod(
            f"method {name!r} cannot be imported ({error}); expected package.module:function with the package on "
            "PYTHONPATH, a function from keep to a compressor"
        ) from error


def options_for(recipe: Callable[..., Compressor], tower_depth: int, decoder_depth: int) -> dict[str, Any]:
    """The recipe's layer options, scaled from the authors' models to one of these depths.

    Options named `..._layer` count the tower's layers, `layer`, `layers` and `after` the decoder's blocks; several stay
    different from each other. Negative ones mean the same everywhere.
    """
    options: dict[str, Any] = {}
    for name, parameter in signature(recipe).parameters.items():
        if name.endswith("_layer") and parameter.default >= 0:
            first = int(name == "object_layer")  # which counts from 1
            scaled = (parameter.default - first) * (tower_depth - 1) / (_VISION_BLOCKS - 1)
            options[name] = max(1, round(scaled) + first)
        elif name == "layer":
            options[name] = max(1, _scaled(parameter.default, decoder_depth))
        elif name in ("layers", "after"):
            options[name] = _spread(parameter.default, decoder_depth, first=1 if name == "layers" else 0)
    return options


def for_model(name: str, keep: object, given: Mapping[str, Any], tower_depth: int, decoder_depth: int) -> Compressor:
    """The method of a name, with its authors' own budget, its layers scaled to a model's depths where none are given.

    Args:
        name: See `method`.
        keep: The budget; None for methods that have one of their own.
        given: Options of the recipe; whole numbers may be floats, and tuples lists or their text, such as "[8, 16]".
        tower_depth: Layers of the vision tower.
        decoder_depth: Blocks of the language model.

    Raises:
        UnknownMethod: There is no such method.
        BudgetError: The method needs a budget, or this is none.
        FoveateError: The method has no such option, or the value is not of its kind.
    """
    recipe = method(name)
    parameters = {n: p for n, p in signature(recipe).parameters.items() if n != "keep"}
    if unknown := sorted(set(given) - set(parameters)):
        known = ", ".join(str(parameter) for parameter in parameters.values()) or "none"
        raise FoveateError(f"option {unknown[0]!r} of {name} is unknown; its options: {known}")
    if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int | float)):
        raise BudgetError(f"keep={keep!r}: expected how many patches stay, as a count or a fraction such as 0.25")
    if keep is None and signature(recipe).parameters["keep"].default is Parameter.empty:
        raise BudgetError(f"{name} needs keep: how many patches stay, as a count or a fraction such as 0.25")
    options = options_for(recipe, tower_depth, decoder_depth)
    options |= {n: _like(parameters[n].default, n, value) for n, value in given.items()}
    return recipe(**options) if keep is None else recipe(keep=keep, **options)


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
            tokens = fmean(compressor.plan(patches, depth))
            reached.append((abs(tokens - equivalent), tokens, compressor))
    gap, tokens, compressor = min(reached, key=lambda one: one[0])
    if gap > max(1.0, equivalent / 10):
        raise BudgetError(
            f"{getattr(recipe, '__name__', recipe)} cannot come near {equivalent:g} equivalent tokens of {patches} in "
            f"{depth} blocks: nearest are {tokens:g}"
        )
    return compressor


def _like(default: Any, name: str, value: Any) -> Any:  # noqa: ANN401 (of any option)
    """The value as the option's default is written.

    Raises:
        FoveateError: It cannot be.
    """
    if isinstance(default, tuple) and isinstance(value, str):
        with suppress(ValueError, SyntaxError):
            value = literal_eval(value)
    number = not isinstance(value, bool) and isinstance(value, int | float)
    whole = number and float(value).is_integer()
    match default:
        case bool() if isinstance(value, bool):
            return value
        case int() if whole and not isinstance(default, bool):
            return int(value)
        case float() if number:
            return float(value)
        case tuple() if isinstance(value, list | tuple):
            return tuple(value)
        case bool() | int() | float() | tuple():
            raise FoveateError(f"{name}={value!r}: expected {type(default).__name__}, like {default!r}")
    return value


def _scaled(block: int, depth: int) -> int:
    return min(depth - 1, round(block * depth / _DECODER_BLOCKS))


def _spread(layers: tuple[int, ...], depth: int, first: int) -> tuple[int, ...]:
    """Scaled decoder blocks, all different; with `first` 0 a cut follows them, so the last is not among them."""
    found: list[int] = []
    for number, layer in enumerate(layers):
        latest = depth - 2 + first - (len(layers) - 1 - number)
        lowest = found[-1] + 1 if found else first
        found.append(max(lowest, min(latest, _scaled(layer, depth))))
    return tuple(found)
