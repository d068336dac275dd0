"""Values that validate and convert their own fields when they are created."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from decimal import Decimal
from functools import cache
from math import isnan
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from foveate.core.errors import OptionError, shown


class Misfit(ValueError):
    """A value that does not match the expected type."""


@dataclass(frozen=True)
class Validator:
    """A rule for a field, written `Annotated[type, Validator(...)]`.

    Attributes:
        convert: Function that returns the plain value, or raises `Misfit` or an error of its own.
        expected: Description of the accepted values.
    """

    convert: Callable[[Any], Any]
    expected: str


def plain_number(value: object) -> int | float:
    """Returns a number of any library as a Python number.

    Args:
        value: A number of Python or NumPy, a fraction, a decimal, or a zero-dimensional array or tensor.

    Raises:
        Misfit: The value is something else, such as a bool, a string, NaN or an array.
    """
    if getattr(value, "shape", None) == () and (item := getattr(value, "item", None)):
        with suppress(RuntimeError):  # a meta tensor has no content
            value = item()
    match value:
        case bool():
            raise Misfit
        case Integral():
            return int(value)
        case Real() | Decimal():
            with suppress(OverflowError, ValueError):  # a fraction beyond all floats; a signalling NaN
                if not isnan(number := float(value)):
                    return number
    raise Misfit


def whole_number(value: object) -> int:
    """Returns a whole number as a Python int; 2.0 counts as whole.

    Raises:
        Misfit: The value is not a whole number.
    """
    number = plain_number(value)
    if isinstance(number, float) and not number.is_integer():
        raise Misfit
    return int(number)


def whole(name: str, value: object, least: int | None = None) -> int:
    """Returns the value of an argument as a Python int.

    Args:
        name: Name of the argument, for the error.
        value: The value.
        least: Smallest value that is allowed; None means any.

    Raises:
        OptionError: The value is not a whole number, or is too small.
    """
    with suppress(Misfit):
        number = whole_number(value)
        if least is None or number >= least:
            return number
    raise OptionError(f"{name}={shown(value)}: expected a whole number" + (f" from {least} up" if least else ""))


def _share(value: object) -> float:
    if not 0 <= (number := float(plain_number(value))) <= 1:
        raise Misfit
    return number


def _count(value: object) -> int:
    if (number := whole_number(value)) < 1:
        raise Misfit
    return number


def _natural(value: object) -> int:
    if (number := whole_number(value)) < 0:
        raise Misfit
    return number


def _positive(value: object) -> float:
    if not 0 < (number := float(plain_number(value))):
        raise Misfit
    return number


def _not_negative(value: object) -> float:
    if not 0 <= (number := float(plain_number(value))):
        raise Misfit
    return number


Share = Annotated[float, Validator(_share, "a number from 0 to 1")]
Count = Annotated[int, Validator(_count, "a whole number from 1 up")]
Natural = Annotated[int, Validator(_natural, "a whole number from 0 up")]
Positive = Annotated[float, Validator(_positive, "a number above 0")]
NotNegative = Annotated[float, Validator(_not_negative, "a number from 0 up")]


class Value:
    """Base of frozen dataclasses that validate their numbers, words and switches and convert them to plain ones.

    Numbers of NumPy or torch become Python numbers, so that equal values have the same `repr` and identity. Fields of
    classes from other packages are left unchanged.
    """

    __no_type_check__: ClassVar[bool] = True  # jaxtyping would check a number before it is converted

    def __post_init__(self) -> None:
        for name, hint in _own_fields(type(self)):
            value = getattr(self, name)
            try:
                found = fitted(value, hint)
            except Misfit:
                raise OptionError(f"{type(self).__name__}: {name}={shown(value)}: expected {expected(hint)}") from None
            if found is not value:
                object.__setattr__(self, name, found)


@cache
def _own_fields(kind: type) -> tuple[tuple[str, Any], ...]:
    """Returns the names and hints of the fields of a class of this package."""
    ours = kind.__module__.partition(".")[0] == "foveate"
    return tuple((field.name, field.type) for field in fields(kind)) if ours else ()  # type: ignore[arg-type]


def fitted(value: Any, hint: Any) -> Any:  # noqa: ANN401 (of any field)
    """Returns a value converted to a type hint: numbers as plain numbers, lists as tuples.

    Args:
        value: The value.
        hint: The type hint; values of hints other than numbers, bools, literals, tuples and unions are unchanged.

    Raises:
        Misfit: The value does not match the hint.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated and (rule := _rule(parts)):
        return rule.convert(value)
    if origin in (Union, UnionType):
        return _one_of(value, parts)
    if origin is Literal:
        if not any(type(value) is type(word) and value == word for word in parts):
            raise Misfit
        return value
    if origin is tuple:
        return tuple(fitted(item, parts[0]) for item in _items(value))
    if hint is bool:
        return _switch(value)
    if hint is int:
        return whole_number(value)
    return float(plain_number(value)) if hint is float else value


def expected(hint: Any) -> str:  # noqa: ANN401 (of any field)
    """Returns a description of the values that match a hint."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated and (rule := _rule(parts)):
        return rule.expected
    if origin in (Union, UnionType):
        return " or ".join(map(expected, parts))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is tuple:
        return f"a tuple, each of its items {expected(parts[0])}"
    names = {bool: "True or False", int: "a whole number", float: "a number", NoneType: "None"}
    return names.get(hint) or f"a {getattr(hint, '__name__', hint)}"


def _rule(parts: tuple[Any, ...]) -> Validator | None:
    return next((part for part in parts if isinstance(part, Validator)), None)


def _one_of(value: Any, hints: tuple[Any, ...]) -> Any:  # noqa: ANN401 (of any field)
    """Returns a value converted to the first of several hints that it matches."""
    if any(isinstance(hint, type) and type(value) is hint for hint in hints) and value == value:
        return value
    if int in hints and float in hints:
        with suppress(Misfit):
            return plain_number(value)
    for hint in hints:
        if not isinstance(hint, type) or hint in (int, float, bool):
            with suppress(Misfit):
                return fitted(value, hint)
        elif isinstance(value, hint):
            return value
    raise Misfit


def _items(value: Any) -> tuple[Any, ...] | list[Any]:  # noqa: ANN401 (of any field)
    if getattr(value, "ndim", None) == 1:
        return value.tolist()
    if isinstance(value, list | tuple | range):
        return tuple(value)
    raise Misfit


def _switch(value: Any) -> bool:  # noqa: ANN401 (of any field)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, bool):
        raise Misfit
    return value
