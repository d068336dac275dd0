"""Published results, each with its source."""

import csv
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


@cache
def published(paper: str) -> tuple[Published, ...]:
    """Returns the results that a paper reports.

    Raises:
        DataError: No results of this paper are known.
    """
    text = (files("foveate.data") / "published.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    found = [Published(**row) for row in rows if row["paper"] == paper]
    if not found:
        known = ", ".join(sorted({row["paper"] for row in rows}))
        raise DataError(f"no published results of paper {paper!r}; known: {known}")
    return tuple(found)
