"""Tables of the questions about things, which captions name, and of those about details, which they do not."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from foveate.analysis.cells import BUDGETLESS, Cell
from foveate.analysis.tables import accuracy, against_random, grid, paragraphs, tested, write_csv
from foveate.data.scenes.questions import QUESTION_KINDS

_LEGEND = "n = {n:,} questions about {images:,} images; columns as above, Holm-corrected over this table."
CONTENTS = ("things", "details")


def content_of(kinds: pd.Series) -> pd.Series:
    """Returns what questions of these kinds ask about, "things" or "details"; NaN for kinds of other data."""
    return kinds.map({name: kind.about for name, kind in QUESTION_KINDS.items()})


def by_content(frames: Mapping[Cell, pd.DataFrame]) -> dict[str, dict[Cell, pd.DataFrame]]:
    """Returns the records of the questions about things and about details; nothing unless there are both.

    Args:
        frames: The records, as `read_cells` returns them.
    """
    about = {cell: content_of(frame["kind"]) for cell, frame in frames.items()}
    if any(contents.isna().any() for contents in about.values()):
        return {}
    parts = {
        content: {cell: frame[about[cell] == content].reset_index(drop=True) for cell, frame in frames.items()}
        for content in CONTENTS
    }
    return parts if all(len(frame) for part in parts.values() for frame in part.values()) else {}


def content_tables(
    frames: Mapping[Cell, pd.DataFrame],
    table_of: Callable[[Mapping[Cell, pd.DataFrame]], pd.DataFrame],
    folder: Path,
    verdicts: bool = True,
) -> str:
    """Writes `table_things.csv` and `table_details.csv`; returns the same as Markdown.

    Args:
        frames: The records, as `read_cells` returns them.
        table_of: Makes the table of some records; it has the columns of `ablation_table`.
        folder: Folder to write to.
        verdicts: Whether p values have a verdict.
    """
    parts = []
    for content, part in by_content(frames).items():
        table = table_of(part)
        write_csv(table, folder / f"table_{content}.csv")
        name, budget = (old if old in table else new for old, new in (("scorer", "method"), ("keep", "budget")))
        size = table.iloc[0]
        parts += [f"## Questions about {content}", _LEGEND.format(n=size["n"], images=size["images"])]
        rows = [(str(row[name]), int(row[budget]), row) for _, row in table.iterrows()]
        parts.append(grid([_cells(label, keep, row, verdicts) for label, keep, row in rows if label not in BUDGETLESS]))
    return paragraphs(*parts)


def _cells(label: str, keep: int, row: pd.Series, verdicts: bool) -> dict[str, str]:
    return {
        "tokens": str(keep),
        "choice": label,
        "accuracy": accuracy(row),
        "vs random": against_random(row),
        "p": tested(row["delta_vs_random"], row["p_vs_random_holm"], verdicts),
    }
