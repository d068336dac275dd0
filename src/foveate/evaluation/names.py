"""Names and ranges of the options of evaluations, and of studies made of them."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal, get_args

from foveate.core.errors import FoveateError, MissingPackage, OptionError

LoggerName = Literal["csv", "tensorboard", "wandb", "mlflow"]
LOGGERS: tuple[LoggerName, ...] = get_args(LoggerName)
Reuse = Literal["encodings", "images", "texts", "drafts", "answers", "lengths"]
REUSABLE: tuple[Reuse, ...] = get_args(Reuse)
REUSED: tuple[Reuse, ...] = tuple(name for name in REUSABLE if name != "answers")
"""Unless something else is said: a run that was killed then ends with the very bytes of one that was not."""

Existing = Literal["refuse", "aside", "beside"]
"""What becomes of a study of the same name: with another configuration it is an error ("refuse"), or the new study goes
to a folder of its own beside it ("beside"); "aside" moves it out of the way, whatever its configuration."""


def check_numbers(seed: int, batch_size: int, max_new_tokens: int | None) -> None:
    """Refuses numbers that are out of range.

    Raises:
        OptionError: One is below the least that it may be.
    """
    for name, value, least in (("seed", seed, 0), ("batch_size", batch_size, 1), ("max_new_tokens", max_new_tokens, 1)):
        if value is not None and value < least:
            raise OptionError(f"{name}={value}: expected {least} or more")


def check_loggers(names: Sequence[str]) -> None:
    """Refuses loggers that cannot be had.

    Raises:
        FoveateError: There is no such logger.
        MissingPackage: Its package is not installed.
    """
    for name in names:
        if name not in LOGGERS:
            raise FoveateError(f"logger {name!r} is unknown; known: {', '.join(LOGGERS)}")
        if find_spec(name) is None:
            raise MissingPackage(f"logger {name!r} needs a package that is not there: pip install 'foveate[loggers]'")
