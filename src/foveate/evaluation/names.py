"""Names and ranges of the options of evaluations and studies."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal, get_args

from foveate.core.errors import FoveateError, MissingPackage, OptionError

LoggerName = Literal["csv", "tensorboard", "wandb", "mlflow"]
LOGGERS: tuple[LoggerName, ...] = get_args(LoggerName)
Reuse = Literal["encodings", "images", "texts", "drafts", "lengths"]
"""Results that are computed once and reused. None changes an answer in float32.

- encodings: features and [CLS] rows of an image; the vision tower runs once per model and data set.
- images: keys and values of an image, computed once for all questions about it where the method allows that.
- texts: keys and values of the text before the images, computed once per batch.
- drafts: one pass over question and reference answer; only an answer that deviates from the reference is decoded.
- lengths: images with long prompts come first, so that the prompts of a batch have similar lengths.
"""
REUSABLE: tuple[Reuse, ...] = get_args(Reuse)

Existing = Literal["refuse", "aside", "beside"]
"""Treatment of an existing study of the same name: "refuse" raises an error if its configuration differs, "beside" puts
a study with another configuration into a folder of its own, and "aside" renames the existing study first."""


def check_numbers(seed: int, batch_size: int | Literal["auto"], max_new_tokens: int | None, frames: int = 1) -> None:
    """Checks numbers of a configuration.

    Raises:
        OptionError: A number is below its minimum.
    """
    limits = (
        ("seed", seed, 0),
        ("batch_size", batch_size, 1),
        ("max_new_tokens", max_new_tokens, 1),
        ("frames", frames, 1),
    )
    for name, value, least in limits:
        if isinstance(value, int) and value < least:
            raise OptionError(f"{name}={value}: expected {least} or more")


def check_loggers(names: Sequence[str]) -> None:
    """Checks names of loggers.

    Raises:
        FoveateError: A logger is unknown.
        MissingPackage: A logger's package is not installed.
    """
    for name in names:
        if name not in LOGGERS:
            raise FoveateError(f"logger {name!r} is unknown; known: {', '.join(LOGGERS)}")
        if find_spec(name) is None:
            raise MissingPackage(
                f"logger {name!r} needs a package that is not installed: pip install 'foveate[loggers]'"
            )
