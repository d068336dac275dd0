"""A method with its budget and options as text, such as "vtc_cls(keep=0.11, start_layer=0)"."""

import ast
from dataclasses import dataclass
from typing import Any

from foveate.core.errors import OptionError, shown
from foveate.methods.registry import parts_of

_EXPECTED = "expected a method with its budget and options, such as 'vtc_cls(keep=0.11, start_layer=0)'"


@dataclass(frozen=True)
class Choice:
    """A method with its budget and options.

    Attributes:
        name: Name of the method; see `methods.registry.parts_of`.
        keep: The budget: a fraction of the patches, or a count; None means the method's default.
        options: Names and values of the options that are not the default.
    """

    name: str
    keep: int | float | None = None
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def parsed(cls, text: str) -> "Choice":
        """Returns the choice that a text spells; imports no recipe.

        Raises:
            OptionError: The text is not spelled as expected.
            UnknownMethod: The method is unknown.
        """
        name, bracket, rest = text.strip().partition("(")
        if bracket and not rest.endswith(")"):
            raise OptionError(f"method {shown(text)}: {_EXPECTED}")
        parts_of(name)
        options = dict(options_of(rest[:-1]))
        return cls(name, options.pop("keep", None), tuple(options.items()))

    def __str__(self) -> str:
        keep = () if self.keep is None else (("keep", self.keep),)
        settings = ", ".join(f"{name}={value!r}" for name, value in (*keep, *self.options))
        return f"{self.name}({settings})" if settings else self.name


def options_of(text: str) -> tuple[tuple[str, Any], ...]:
    """Returns names and values of options written "start_layer=0, cls=False"; none of an empty text.

    Raises:
        OptionError: The text is not spelled so, an option is given twice, or a value is not a number, a word in quotes,
            True, False or a tuple.
    """
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError
        names = [option.arg for option in call.keywords]
        if None in names or len(set(names)) < len(names):
            raise ValueError
        return tuple((option.arg or "", ast.literal_eval(option.value)) for option in call.keywords)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise OptionError(
            f"options {shown(text)}: expected different names with values, such as start_layer=0, cls=False"
        ) from None
