"""Data sets by name, known without importing what reads them."""

from foveate.core.errors import DataError
from foveate.core.plugins import installed_plugins

SCENES = "scenes"
NAMES = (
    *("gqa", "mmbench", "mmbench_cn", "mme", "mmvet", "pope", "refcoco", "refcoco+", "refcocog", "scienceqa"),
    *("seedbench", "textvqa", "textvqa_ocr", "vizwiz", "vqav2"),
)
"""Those of the package's own benchmarks."""
REGISTERED: set[str] = set()
"""Those of benchmarks that were registered."""


def known_names() -> tuple[str, ...]:
    """Returns the names of all data sets: the scenes, our benchmarks, and those that were registered or installed."""
    return tuple(dict.fromkeys((SCENES, *NAMES, *sorted(REGISTERED), *installed_plugins("foveate.benchmarks"))))


def parsed(name: str) -> tuple[str, str | None]:
    """Returns the name of a data set, and the place that was given with it.

    Raises:
        DataError: The data set is unknown, or is made and has no place.
    """
    known, given, location = name.partition(":")
    if known not in known_names():
        raise DataError(f"data {known!r} is unknown; known: {', '.join(known_names())}")
    if given and (known == SCENES or not location):
        raise DataError(
            f"data {name!r}: {SCENES} are made, not read"
            if known == SCENES
            else f"data {name!r}: no place after the colon"
        )
    return known, location or None


def check_limit(limit: int | None) -> None:
    """Refuses a number of questions that is none.

    Raises:
        DataError: It is below 1.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit={limit}: at least one question is needed; leave it out for the whole split")
