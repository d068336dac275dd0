"""Errors that say which value was received, what was expected, and what to do."""

from collections.abc import Callable, Iterable, Set
from reprlib import Repr

_LACKS_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 120
_SHORT.maxlist = _SHORT.maxtuple = 8


def shown(value: object) -> str:
    """Returns a value's `repr`, shortened if it is long."""
    return _SHORT.repr(value)


def shown_some(names: Iterable[object], most: int = 6) -> str:
    """Returns the first names, and the number of further ones."""
    listed = sorted(map(str, names)) if isinstance(names, Set) else list(map(str, names))
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return f"{', '.join(listed[:most])}{more}"


def message_of(error: BaseException) -> str:
    """Returns the message of a library's error in one line of limited length, or the error's type if it has none."""
    while error.__cause__:
        error = error.__cause__
    lines = [line.strip() for line in str(error)[:2000].splitlines() if line.strip()]
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= 300 else f"{line[:300]}..."


def behind(error: BaseException | None, wanted: Callable[[BaseException], bool]) -> BaseException | None:
    """Returns the first error that `wanted` accepts, among an error and the chain of its causes and contexts."""
    while error and not wanted(error):
        error = error.__cause__ or error.__context__
    return error


def lacks_memory(error: BaseException) -> bool:
    """Returns whether an allocation failed: allocators of CPU and MPS raise errors of a general type."""
    message = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(part in message for part in _LACKS_MEMORY)
    )


def interrupted(error: BaseException) -> bool:
    """Returns whether Ctrl-C caused an error: a library that it interrupts may raise an error of its own."""
    return behind(error, lambda one: isinstance(one, KeyboardInterrupt)) is not None


class FoveateError(Exception):
    """Base of all errors that a user can resolve."""


class OptionError(FoveateError, ValueError):
    """An invalid value of an option."""


class BudgetError(FoveateError, ValueError):
    """A budget that an image does not allow."""


class LayerError(FoveateError, IndexError):
    """A layer that the model does not have."""


class UnsupportedNeed(FoveateError):
    """A need that a model cannot answer, or a cut that its language model does not allow."""


class UnsupportedModel(FoveateError):
    """A checkpoint that is missing, or that no adapter supports."""


class UnknownMethod(FoveateError):
    """An unknown name of a method."""


class RecipeError(FoveateError):
    """A recipe file that cannot be read, or a compressor that a file cannot hold."""


class ExportError(FoveateError):
    """A compressor that cannot become a program of other engines."""


class DataError(FoveateError):
    """A data set, split or sample that is unknown, empty or malformed."""


class DeviceError(FoveateError):
    """Devices that do not exist, or that a command cannot use."""


class MemoryExhausted(FoveateError):
    """Memory that does not suffice for a single question."""


class MissingPackage(FoveateError):
    """An optional package that is required and not installed."""


class OutputError(FoveateError):
    """A folder for results that cannot be written, or that holds results of another configuration."""
