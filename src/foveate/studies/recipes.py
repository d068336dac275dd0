"""Search spaces of a recipe's options, described by text such as `layer=1:3`."""

import re
from ast import literal_eval
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, signature
from typing import Any, Literal, get_args, get_origin

from foveate.compressors import Compressor
from foveate.core.errors import FoveateError
from foveate.evaluation.identity import identity_of
from foveate.methods.fitting import aligned, method, options_for
from foveate.studies.space import AnyTrial, Budget, Proposal, Space

Value = bool | int | float | str | None


@dataclass(frozen=True)
class Range:
    """A range of numbers; of integers if both ends are integers."""

    name: str
    low: int | float
    high: int | float
    log: bool = False

    def suggest(self, trial: AnyTrial) -> int | float:
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.name, self.low, self.high, log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class OneOf:
    """A choice between values of any type, written as Python literals."""

    name: str
    values: tuple[str, ...]

    def suggest(self, trial: AnyTrial) -> object:
        return _value(trial.suggest_categorical(self.name, self.values))


@dataclass(frozen=True)
class RecipeSpace(Space):
    """A space of some options of a method; the other options are scaled to the model's depth.

    Attributes:
        name: Name in `METHODS`, or "package.module:function" or "./file.py:function".
        opened: The options that are searched.
        budget: The budget in equivalent tokens.
        depth: Number of layers of the vision tower.
        decoder_depth: Number of blocks of the language model.
        patches: Number of patches of an image.
    """

    name: str
    opened: tuple[Range | OneOf, ...]
    budget: Budget
    depth: int
    decoder_depth: int
    patches: int

    @property
    def identity(self) -> dict[str, Any]:
        return super().identity | {"recipe": identity_of(method(self.name), f"method {self.name}")}

    def suggest(self, trial: AnyTrial) -> Proposal:
        recipe = method(self.name)
        options = options_for(recipe, self.depth, self.decoder_depth)
        options |= {dimension.name: dimension.suggest(trial) for dimension in self.opened}
        return Proposal(self._fitted(recipe, options, self.budget.suggest(trial)), self.name, self.name)

    def _fitted(self, recipe: Callable[..., Compressor], options: dict[str, Any], keep: int) -> Compressor:
        if "layer" not in {dimension.name for dimension in self.opened}:
            return aligned(recipe, keep, self.patches, self.decoder_depth, **options)
        # bound here, because `aligned` would change an option `layer` to reach the budget
        bound = partial(recipe, layer=options.pop("layer"))
        return aligned(bound, keep, self.patches, self.decoder_depth, **options)


def opened(name: str, texts: Iterable[str]) -> tuple[Range | OneOf, ...]:
    """Returns the dimensions that texts describe.

    Args:
        name: Name of the method.
        texts: `option=1:3` and `option=0.1:0.9` are ranges, `option=1:9:log` one on a logarithmic scale, `option=a|b`
            lists values, and `option` alone stands for all values of a bool or of a `Literal`.

    Raises:
        FoveateError: The method has no such option, or the text has another form.
    """
    recipe = method(name)
    parameters = {n: p for n, p in signature(recipe, eval_str=True).parameters.items() if n != "keep"}
    return tuple(_dimension(name, parameters, text) for text in texts)


def _dimension(name: str, parameters: dict[str, Parameter], text: str) -> Range | OneOf:
    option, equals, written = (part.strip() for part in text.partition("="))
    if option not in parameters:
        known = ", ".join(str(parameter) for parameter in parameters.values()) or "none"
        raise FoveateError(f"option {option!r} of {name} is unknown; its options: {known}. The budget is --keep")
    if not equals:
        return OneOf(option, _all_values(name, option, parameters[option].annotation))
    if "|" in written:
        return OneOf(option, tuple(part.strip() for part in written.split("|")))
    number = r"(-?\d+(?:\.\d*)?(?:e-?\d+)?)"
    found = re.fullmatch(rf"{number}:{number}(:log)?", written)
    if not found:
        raise FoveateError(f"{text!r}: expected {option}=low:high, {option}=low:high:log or {option}=one|other")
    low, high = literal_eval(found[1]), literal_eval(found[2])
    if low >= high or (found[3] and low <= 0):
        raise FoveateError(f"{text!r}: low must be below high, and above 0 on a logarithmic scale")
    return Range(option, low, high, bool(found[3]))


def _all_values(name: str, option: str, hint: object) -> tuple[str, ...]:
    if hint is bool:
        return ("True", "False")
    if get_origin(hint) is Literal:
        return tuple(repr(value) for value in get_args(hint))
    raise FoveateError(
        f"option {option!r} of {name} has no fixed list of values: write {option}=low:high or {option}=a|b"
    )


def _value(text: str) -> object:
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError):
        return text
