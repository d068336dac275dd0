"""Compares what chooses patches by attention with filters of pixels, which need no network."""

from collections.abc import Iterable, Mapping

import pandas as pd

from analysis.ablation.data import PIXEL_FILTERS, Cell
from analysis.held_out import Group, held_out_table
from analysis.tables import accuracy, points
from analysis.verdicts import side

BEST = "best pixel filter"
_WORDS = {1: "better", 0: "not shown to differ", -1: "worse"}
_NAMED = 3  # of the methods with one verdict


def against_filters(frames: Mapping[Cell, pd.DataFrame], candidates: Iterable[Cell]) -> pd.DataFrame:
    """Returns every candidate's difference from the best pixel filter at its budget.

    The filter is chosen on one half of the images. All numbers are of the other half, where neither it nor a candidate
    was chosen; so p holds for each candidate, and is corrected over all of them.

    Args:
        frames: As `read_cells` gives them.
        candidates: Some of their cells; those of a budget without a filter are left out.

    Returns:
        The columns of `held_out_table`: a row per candidate, whose scorer is `chosen`, and one per budget for the
        filter, whose `rival` is missing. Empty without filters.
    """
    candidates, groups = list(candidates), {}
    for keep in dict.fromkeys(cell.keep for cell in candidates):
        filters = [cell for cell in frames if cell.keep == keep and cell.family in PIXEL_FILTERS]
        if filters:
            here = [Group(cell.scorer, [cell], (BEST,)) for cell in candidates if cell.keep == keep]
            groups[keep] = [*here, Group(BEST, filters)]
    return held_out_table(frames, groups) if groups else pd.DataFrame()


def filters_first(table: pd.DataFrame, *, verdicts: bool = True) -> str:
    """Returns a paragraph on who beats the best pixel filter; nothing if there is no filter.

    Args:
        table: As `against_filters` gives it.
        verdicts: Whether the model and the images allow any.
    """
    if table.empty:
        return ""
    size = table.iloc[0]
    filters = ", ".join(PIXEL_FILTERS)
    parts = [
        f"A method that does not beat the best filter of pixels ({filters}; no network) says nothing about attention. "
        f"The filter is chosen on {size['chosen_on']:,} questions; n = {size['n']:,} others about {size['images']:,} "
        f"images; differences in points, Holm-corrected."
    ]
    for budget, rows in table.groupby("budget", sort=False):
        best, others = rows[rows["rival"].isna()].iloc[0], rows[rows["rival"].notna()]
        told = _told(others) if verdicts else f"differences {_range(others)}"
        parts.append(f"At {budget} tokens, against {best['chosen']} ({accuracy(best, ' %')}): {told}.")
    return " ".join(parts)


def _told(rows: pd.DataFrame) -> str:
    """Returns how many rows have each verdict, and the names of the first of them."""
    sides = [side(row["difference"], row["p_holm"]) for _, row in rows.iterrows()]
    parts = []
    for sign, word in _WORDS.items():
        found = rows[[verdict == sign for verdict in sides]].sort_values("difference", ascending=False, kind="stable")
        names = [f"{row['chosen']} {points(row['difference'])}" for _, row in found.head(_NAMED).iterrows()]
        more = ["..."] if len(found) > _NAMED else []
        parts.append(f"{word} {len(found)} of {len(rows)}" + (f" ({', '.join([*names, *more])})" if names else ""))
    return ", ".join(parts)


def _range(rows: pd.DataFrame) -> str:
    return f"{points(rows['difference'].min())} to {points(rows['difference'].max())}"
