"""Published results, each with its source."""

import csv
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from foveate.core.errors import DataError


class Published(NamedTuple):
    """One number of a paper.

    Attributes:
        paper: Paper that reports the number, not always the one that proposed the method.
        model: Model, as the paper names it.
        method: Method, as the paper names it.
        tokens_kept: Number of tokens, as the paper counts them; "576" is all of them for LLaVA-1.5.
        benchmark: Benchmark, as the paper names it.
        metric: Metric, as the paper names it.
        value: Number as printed, mostly in percent; some are not plain numbers, such as "57.5*".
        source: Table or figure of the paper.
    """

    paper: str
    model: str
    method: str
    tokens_kept: str
    benchmark: str
    metric: str
    value: str
    source: str


IMAGES, VIDEOS = "published.csv", "published_video.csv"
"""Files of results on images, and on videos."""


@cache
def all_published(file: str = IMAGES) -> tuple[Published, ...]:
    """Returns all results of a file, in its order."""
    text = (files("foveate.data") / file).read_text(encoding="utf-8")
    return tuple(Published(**row) for row in csv.DictReader(text.splitlines()))


@cache
def published(paper: str) -> tuple[Published, ...]:
    """Returns the results on images that a paper reports.

    Raises:
        DataError: No results of this paper are known.
    """
    found = tuple(row for row in all_published() if row.paper == paper)
    if not found:
        raise DataError(f"no published results of paper {paper!r}; known: {', '.join(_papers(all_published()))}")
    return found


@cache
def everything() -> tuple[Published, ...]:
    """Returns all results, those on images first."""
    return (*all_published(IMAGES), *all_published(VIDEOS))


def paper_named(name: str) -> str:
    """Returns the paper of a name, in which upper case, spaces and signs do not count: "visionzip" is VisionZip.

    Raises:
        DataError: No results of such a paper are known.
    """
    found = {plain(paper): paper for paper in _papers(everything())}
    if plain(name) in found:
        return found[plain(name)]
    raise DataError(f"no published results of paper {name!r}; known: {', '.join(found.values())}")


@cache
def plain(name: str) -> str:
    """Returns a name in lower case without spaces and signs; a + is spelt out."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "plus"))


def _papers(rows: Sequence[Published]) -> list[str]:
    return sorted({row.paper for row in rows}, key=str.lower)
