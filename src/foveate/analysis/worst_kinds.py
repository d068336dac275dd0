"""The kind of questions on which a row of a table is worst, which the mean over all questions hides."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from foveate.analysis.cells import Cell
from foveate.analysis.statistics import Interval, difference_interval, mean_interval
from foveate.analysis.tables import accuracy, against_full, paragraphs, write_csv

FILE = "worst_kinds.csv"
_SEPARATOR = re.compile(r",(?! )")  # between the kinds of a question that has several, as in MM-Vet and DocVQA
_LEGEND = (
    "*Worst kind*: of {kinds} kinds of questions the one that loses most against `full`, or without `full` the one "
    "with the lowest accuracy: its accuracy and that difference. Their intervals hold for all kinds at once "
    "(Bonferroni), which covers the choice of the worst."
)
_TITLE = "Worst kind of questions: its difference from full in points, or its accuracy in %; {kinds} kinds"


class WorstKind(NamedTuple):
    """The kind of questions with the largest loss against a baseline, or without one that with the lowest mean score.

    Attributes:
        kind: Name of the kind.
        kinds: Number of kinds, for which the intervals hold at once.
        images: Number of images of its questions.
        mean: Mean score of its questions.
        loss: Difference from the baseline, paired by question; NaN without one.
    """

    kind: str
    kinds: int
    images: int
    mean: Interval
    loss: Interval

    @property
    def row(self) -> dict[str, Any]:
        """The values of a table row, with the names of the columns that `tables.accuracy` and `against_full` format."""
        mean, loss = self.mean, self.loss
        row = {"kind": self.kind, "kinds": self.kinds, "n": mean.n, "images": self.images, "accuracy": mean.mean}
        row |= {"ci_low": mean.low, "ci_high": mean.high, "delta_vs_full": loss.mean}
        return row | {"delta_ci_low": loss.low, "delta_ci_high": loss.high}

    def __str__(self) -> str:
        mean = accuracy(pd.Series(self.row), " %")
        return (
            f"Worst kind of questions: {self.kind} {mean}, n = {self.mean.n:,} questions about {self.images:,} images "
            f"(the lowest of {self.kinds} kinds; the interval holds for all of them at once)."
        )


@dataclass(frozen=True, eq=False)
class WorstKinds:
    """The worst kind of every row of a study.

    Attributes:
        table: Table of `worst_kinds_table`.
    """

    table: pd.DataFrame

    def cells(self, label: str, budget: int) -> dict[str, str]:
        """Returns the cell of a row in a Markdown table, under its title; none if the questions have one kind only."""
        return {"worst kind": self._texts.get((label, budget), "-")} if len(self.table) else {}

    @property
    def legend(self) -> str:
        """The explanation of these cells; empty without them."""
        return _LEGEND.format(kinds=self.table["kinds"].max()) if len(self.table) else ""

    @property
    def text(self) -> str:
        """The kind and its difference from `full` by row and budget, for a terminal; empty without them."""
        if self.table.empty:
            return ""
        shown = self.table.assign(shown=[_short(row) for _, row in self.table.iterrows()])
        wide = shown.pivot(index="row", columns="budget", values="shown").fillna("")
        wide = wide.loc[shown["row"].drop_duplicates(), sorted(wide.columns, reverse=True)]
        return paragraphs(_TITLE.format(kinds=self.table["kinds"].max()), wide.to_string())

    @cached_property
    def _texts(self) -> dict[tuple[str, int], str]:
        rows = ((row["row"], int(row["budget"]), row) for _, row in self.table.iterrows())
        return {(label, budget): _long(row) for label, budget, row in rows}


def kinds_of(kind: str) -> list[str]:
    """Returns the kinds that the cell of a record names: several are separated by commas without blanks."""
    return [name for name in _SEPARATOR.split(kind) if name]


def worst_kind(frame: pd.DataFrame, full: pd.DataFrame | None = None) -> WorstKind | None:
    """Returns the worst kind of questions of a run; None if there are fewer than two.

    Args:
        frame: Its records; a question may have several kinds.
        full: The records of `full` about the same questions; None compares with nothing.
    """
    named = {kind: kinds_of(str(kind)) for kind in frame["kind"].unique()}
    names = sorted({name for several in named.values() for name in several})
    if len(names) < 2:
        return None
    scores = frame["score"].to_numpy(float)
    losses = scores if full is None else scores - full["score"].to_numpy(float)
    masks = {name: frame["kind"].isin([kind for kind in named if name in named[kind]]).to_numpy() for name in names}
    worst = min(names, key=lambda name: (losses[masks[name]].mean(), name))
    rows, images = masks[worst], frame["image_id"].to_numpy()[masks[worst]]
    loss = Interval(np.nan, np.nan, np.nan, len(images))
    if full is not None:
        loss = difference_interval(scores[rows], full["score"].to_numpy(float)[rows], images, together=len(names))
    mean = mean_interval(scores[rows], images, len(names))
    return WorstKind(worst, len(names), len(np.unique(images)), mean, loss)


def worst_kinds_table(frames: Mapping[Cell, pd.DataFrame], label: Literal["family", "scorer"]) -> pd.DataFrame:
    """Returns one row per cell: row (its label), budget, and the columns of `WorstKind.row`; empty without kinds.

    Args:
        frames: The records, as `read_cells` returns them.
        label: Field of a cell that names its row.
    """
    full = next((frame for cell, frame in frames.items() if cell.family == "full"), None)
    rows = []
    for cell, frame in frames.items():
        if found := worst_kind(frame, None if frame is full else full):
            rows.append({"row": getattr(cell, label), "budget": cell.keep, **found.row})
    return pd.DataFrame(rows)


def write_worst_kinds(
    frames: Mapping[Cell, pd.DataFrame], folder: Path, label: Literal["family", "scorer"]
) -> WorstKinds:
    """Writes `worst_kinds.csv`, if there are several kinds, and returns its content for tables and terminals.

    Args:
        frames: The records, as `read_cells` returns them.
        folder: Folder to write to.
        label: See `worst_kinds_table`.
    """
    table = worst_kinds_table(frames, label)
    if len(table):
        write_csv(table, folder / FILE)
    return WorstKinds(table)


def _long(row: pd.Series) -> str:
    difference = against_full(row)
    return f"{row['kind']} {accuracy(row)}" + (f", {difference}" if difference != "-" else "")


def _short(row: pd.Series) -> str:
    difference = against_full(row)
    return f"{row['kind']} {accuracy(row) if difference == '-' else difference}"
