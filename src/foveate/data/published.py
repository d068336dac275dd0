"""Results as papers give them, each with its source."""

import csv
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from foveate.core.errors import DataError


class Published(NamedTuple):
    """One number of a paper.

    Attributes:
        paper: That reports it; not always the one that proposed the method.
        model: As the paper names it.
        method: Likewise.
        tokens_kept: As the paper counts them; "576" is everything for LLaVA-1.5.
        benchmark: Likewise.
        metric: What the number is.
        value: As printed, mostly in percent; some are no plain number, such as "57.5*".
        source: Where it stands.
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
        DataError: None of this paper are known.
    """
    text = (files("foveate.data") / "published.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    found = [Published(**row) for row in rows if row["paper"] == paper]
    if not found:
        known = ", ".join(sorted({row["paper"] for row in rows}))
        raise DataError(f"no published results of paper {paper!r}; known: {known}")
    return tuple(found)
