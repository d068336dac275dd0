"""Paired differences of named methods of a comparison."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foveate.analysis.cells import BUDGETLESS, Cell, runs_of
from foveate.analysis.statistics import difference_interval
from foveate.analysis.tables import between, grid, paragraphs, tested, write_csv, write_text
from foveate.analysis.verdicts import holm, paired_p, too_few

_LEGEND = (
    "n = {n:,} questions about {images:,} images; method minus other in points, paired by question, with 95 % "
    "intervals over images. Verdicts rest on p < 0.05 in a permutation test over images, Holm-corrected over the table."
)


def pairs_table(frames: Mapping[Cell, pd.DataFrame], pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Returns one row per budget and pair, by falling budget.

    Columns: method, other, budget, n, images, difference, low, high (95 %), p, p_holm (over all rows) and seeds (of
    both sides). Where a side has no cell, all columns from n to p_holm are NaN. A method without a budget, such as
    `full`, is compared at every budget of the other.

    Args:
        frames: The records, as `read_comparison` returns them.
        pairs: Names of a method and of the one that it is compared with.
    """
    budgets = sorted({cell.keep for cell in frames if cell.family not in BUDGETLESS}, reverse=True)
    once = {cell.family: frame for cell, frame in frames.items() if cell.family in BUDGETLESS}
    rows = []
    for budget in budgets:
        here = once | {cell.family: frame for cell, frame in frames.items() if cell.keep == budget}
        for method, other in pairs:
            row = {"method": method, "other": other, "budget": budget}
            rows.append(row | _difference(here.get(method), here.get(other)))
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"]))


def write_pairs(
    frames: Mapping[Cell, pd.DataFrame], pairs: Sequence[tuple[str, str]], folder: Path, caveat: str = ""
) -> str:
    """Writes `pairs.csv` and `pairs.md`; returns the latter, an empty string without pairs.

    Args:
        frames: The records, as `read_comparison` returns them.
        pairs: See `pairs_table`.
        folder: Folder to write to.
        caveat: Reason why there are no verdicts, or an empty string.
    """
    if not pairs:
        return ""
    table = pairs_table(frames, pairs)
    write_csv(table, folder / "pairs.csv")
    compared = table[table["p"].notna()]
    parts = ["## Differences of named methods"]
    if len(compared):
        size = {"n": int(compared["n"].max()), "images": int(compared["images"].max())}
        caveat = caveat or too_few(size["images"], len(compared), int(compared["seeds"].max()))
        parts += [_LEGEND.format(**size), caveat]
    text = paragraphs(*parts, grid([_cells(row, not caveat) for _, row in table.iterrows()]))
    write_text(text + "\n", folder / "pairs.md")
    return text


def _difference(first: pd.DataFrame | None, second: pd.DataFrame | None) -> dict[str, Any]:
    if first is None or second is None:
        return dict.fromkeys(("n", "images", "difference", "low", "high", "p", "seeds"), np.nan)
    images = first["image_id"]
    mean, low, high, n = difference_interval(first["score"], second["score"], images)
    p = paired_p(runs_of(first), runs_of(second), images)
    seeds = int(first["seeds"].iloc[0] + second["seeds"].iloc[0])
    sizes = {"n": n, "images": images.nunique()}
    return sizes | {"difference": mean, "low": low, "high": high, "p": p, "seeds": seeds}


def _cells(row: pd.Series, verdicts: bool) -> dict[str, str]:
    missing = pd.isna(row["p"])
    return {
        "method": row["method"],
        "minus": row["other"],
        "tokens": str(row["budget"]),
        "difference": "one of them has no cell here" if missing else between(row, ("difference", "low", "high")),
        "p": tested(row["difference"], row["p_holm"], verdicts),
    }
