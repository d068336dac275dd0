"""Names of data sets, available without importing the modules that read them."""

from foveate.core.errors import DataError
from foveate.core.plugins import installed_plugins

SCENES = "scenes"
SCENE_GRIDS = ("12", "16")
"""Patches per side of scenes, as in scenes:16; the first is the default."""
NAMES = (
    *("gqa", "mmbench", "mmbench_cn", "mme", "mmvet", "pope", "refcoco", "refcoco+", "refcocog", "scienceqa"),
    *("seedbench", "textvqa", "textvqa_ocr", "vizwiz", "vqav2"),
)
"""Names of the built-in benchmarks."""
REGISTERED: set[str] = set()
"""Names of registered benchmarks."""


def known_names() -> tuple[str, ...]:
    """Returns the names of all data sets: scenes, built-in, registered and installed benchmarks."""
    return tuple(dict.fromkeys((SCENES, *NAMES, *sorted(REGISTERED), *installed_plugins("foveate.benchmarks"))))


def parsed(name: str) -> tuple[str, str | None]:
    """Returns the name of a data set and what follows its colon, if anything: a location, or the patches of scenes.

    Raises:
        DataError: The data set is unknown, the location is empty, or generated data are given a location.
    """
    known, given, location = name.partition(":")
    if known not in known_names():
        raise DataError(f"data {known!r} is unknown; known: {', '.join(known_names())}")
    if given and known == SCENES and location not in SCENE_GRIDS:
        raise DataError(
            f"data {name!r}: {SCENES} are generated, not read: leave out {given}{location}, or give their patches per "
            f"side: {', '.join(SCENE_GRIDS)}"
        )
    if given and not location:
        raise DataError(f"data {name!r}: expected a path or hub ID after the colon")
    return known, location or None


def check_limit(limit: int | None) -> None:
    """Checks a limit on the number of questions.

    Raises:
        DataError: The limit is below 1.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit={limit}: expected at least 1 question; leave the limit out for the whole split")
