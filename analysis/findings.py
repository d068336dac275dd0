"""Findings of a table of accuracies: whether verdicts are possible, who beats pixel filters, and what is best."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from analysis import held_out
from analysis.ablation.data import Cell, caveat
from analysis.held_out import Group, held_out_table
from analysis.pixel_filters import against_filters, filters_first
from analysis.tables import paragraphs

_CANDIDATES = ("single", "suffix", "all", "vision", "decoder", "both")


class Findings(NamedTuple):
    """Findings that reports print beside the table.

    Attributes:
        doubt: Why there are no verdicts, or nothing.
        first: Who beats the best pixel filter.
        chosen: As `held_out_table` gives it.
    """

    doubt: str
    first: str
    chosen: pd.DataFrame

    def markdown(self, *budgets: int) -> str:
        """Returns what was chosen on one half of the images and reported on the other, at these or all budgets."""
        rows = self.chosen[self.chosen["budget"].isin(budgets)] if budgets and len(self.chosen) else self.chosen
        return held_out.markdown(rows, verdicts=not self.doubt)

    def printed(self, budget: int) -> str:
        """Returns the same of one budget for a terminal."""
        return held_out.printed(self.chosen, budget, verdicts=not self.doubt)


def findings(
    frames: Mapping[Cell, pd.DataFrame],
    table: pd.DataFrame,
    groups: Mapping[int, Sequence[Group]],
    roles: Mapping[str, str] | None = None,
) -> Findings:
    """Returns what the cells of a study show.

    Args:
        frames: As `read_cells` gives them.
        table: Of the same cells.
        groups: What is chosen from and compared, by budget.
        roles: Of every family, in a comparison; without them a family is its own role.
    """
    candidates = [cell for cell in frames if (roles or {}).get(cell.family, cell.family) in _CANDIDATES]
    chosen, against = held_out.corrected(held_out_table(frames, groups), against_filters(frames, candidates))
    doubt = caveat(frames, table) or held_out.too_few_held_out(chosen)
    return Findings(doubt, filters_first(against, verdicts=not doubt), chosen)


def page(table: str, found: Findings, failed: str) -> str:
    """Returns the text of `table.md`.

    Args:
        table: The table for readers.
        found: What it allows to be said.
        failed: Which questions could not be asked, or nothing.
    """
    return paragraphs(found.first, table, held_out.TITLE, found.markdown(), failed) + "\n"
