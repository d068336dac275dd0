"""Errors that say which value was received, what was expected, and what to do."""

from collections.abc import Callable, Iterable, Set
from reprlib import Repr

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 120
_SHORT.maxlist = _SHORT.maxtuple = 8


def shown(value: object) -> str:
    """The value as an error shows it: like `repr`, but short however long the value is."""
    return _SHORT.repr(value)


def shown_some(names: Iterable[object], most: int = 6) -> str:
    """Returns the first names in their order, and how many there are besides."""
    listed = sorted(map(str, names)) if isinstance(names, Set) else list(map(str, names))
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return f"{', '.join(listed[:most])}{more}"


def said(error: BaseException) -> str:
    """What a library's error says, in one line of bounded length, with its kind where it says nothing."""
    while error.__cause__:
        error = error.__cause__
    lines = [line.strip() for line in str(error)[:2000].splitlines() if line.strip()]
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= 300 else f"{line[:300]}..."


def behind(error: BaseException | None, wanted: Callable[[BaseException], bool]) -> BaseException | None:
    """The first that is wanted among an error and those that it was raised from, or during."""
    while error and not wanted(error):
        error = error.__cause__ or error.__context__
    return error


def interrupted(error: BaseException) -> bool:
    """Whether Ctrl-C is behind an error: a library that it comes upon may raise one of its own."""
    return behind(error, lambda one: isinstance(one, KeyboardInterrupt)) is not None


class FoveateError(Exception):
    """Base of all errors that a user can mend."""


class OptionError(FoveateError, ValueError):
    """A value that an option cannot have."""


class BudgetError(FoveateError, ValueError):
    """A number of tokens to keep that the image does not allow."""


class LayerError(FoveateError, IndexError):
    """A layer that the model does not have."""


class UnsupportedNeed(FoveateError):
    """A scorer needs something that this model cannot give."""


class UnsupportedModel(FoveateError):
    """A checkpoint that no adapter knows, or that is not there."""


class UnknownMethod(FoveateError):
    """A name that is no method."""


class DataError(FoveateError):
    """A data set, split or sample that is unknown, empty or malformed."""


class DeviceError(FoveateError):
    """Devices that are not there, or processes that do not work together."""


class MissingPackage(FoveateError):
    """An optional package that is asked for and not installed."""


class OutputError(FoveateError):
    """A place for results that cannot be written, or that holds results of another configuration."""
