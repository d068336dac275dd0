"""Data of a frontier: its table, and the best mixes of image size and budget at equal tokens and equal milliseconds."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from foveate.analysis.cells import BUDGETLESS, Cell
from foveate.analysis.comparison.data import Comparison, comparison_table
from foveate.analysis.held_out import Group, held_out_table
from foveate.analysis.statistics import difference_interval

DOWNSAMPLE, RANDOM = "downsample", "random"
MIX, ALONE = "best mix", "best method alone"
_AGAINST = ("difference", "low", "high")


class Frontier(NamedTuple):
    """The cells of a frontier with their sizes and times.

    Attributes:
        comparison: The cells.
        sizes: Visual tokens of an image before each method: all, or fewer in a mix. Those of `downsample` are its
            budget.
        ms: Median milliseconds of a question by method and budget: tower, method and language model.
    """

    comparison: Comparison
    sizes: Mapping[str, int]
    ms: Mapping[tuple[str, int], float]

    def mixed(self, cell: Cell) -> bool:
        """Returns whether a cell is a method on smaller images."""
        return self.comparison.roles[cell.family] != "control" and self.sizes[cell.family] < self.comparison.patches

    def alone(self, cell: Cell) -> bool:
        """Returns whether a cell is a method on images of full size."""
        return self.comparison.roles[cell.family] != "control" and not self.mixed(cell)

    def time(self, cell: Cell) -> float:
        """Returns the milliseconds of a question; NaN if they were not measured."""
        return self.ms.get((cell.family, cell.keep), np.nan)


def medians(rounds: pd.DataFrame) -> dict[tuple[str, int], float]:
    """Returns the median milliseconds of a question by method and budget, from timed rounds of batches."""
    columns = (rounds["method"], rounds["budget"], rounds["total_ms"] / rounds["batch"])
    times: dict[tuple[str, int], list[float]] = {}
    for method, budget, ms in zip(*columns, strict=True):
        times.setdefault((str(method), int(budget)), []).append(float(ms))
    return {key: float(np.median(all_ms)) for key, all_ms in times.items()}


def frontier_table(frames: Mapping[Cell, pd.DataFrame], frontier: Frontier) -> pd.DataFrame:
    """Returns one row per cell, by falling budget and then by falling size of the image.

    The columns are those of `comparison_table`, image_tokens (before the method), ms, and the differences from the same
    method alone and from `downsample` at the same budget, paired by question: vs_alone, vs_alone_low, vs_alone_high,
    vs_downsample and so on; NaN where there is no such cell.

    Args:
        frames: The records, as `read_comparison` returns them.
        frontier: The cells.
    """
    table = comparison_table(frames, frontier.comparison.roles)
    by_name = {(cell.family, cell.keep): frame for cell, frame in frames.items()}
    rows: list[dict[str, Any]] = []
    for method, budget in zip(table["method"], table["budget"], strict=True):
        own = by_name[method, budget]
        tokens = budget if method in (DOWNSAMPLE, *BUDGETLESS) else frontier.sizes[method]
        row: dict[str, Any] = {"image_tokens": tokens, "ms": frontier.ms.get((method, budget), np.nan)}
        for name, rival in (("vs_alone", method.partition("@")[0]), ("vs_downsample", DOWNSAMPLE)):
            row |= _difference(name, own, by_name.get((rival, budget)) if method not in BUDGETLESS else None)
        rows.append(row)
    table = pd.concat([table, pd.DataFrame(rows)], axis=1)
    return table.sort_values(["budget", "image_tokens"], ascending=False, kind="stable", ignore_index=True)


def at_equal_tokens(frames: Mapping[Cell, pd.DataFrame], frontier: Frontier) -> pd.DataFrame:
    """Returns `held_out_table` of the best mix, the best method alone and the controls at every budget."""
    budgets = sorted({cell.keep for cell in frames if cell.family not in BUDGETLESS}, reverse=True)
    groups = {keep: _groups(frames, frontier, lambda cell, keep=keep: cell.keep == keep) for keep in budgets}
    return held_out_table(frames, groups)


def at_equal_time(frames: Mapping[Cell, pd.DataFrame], frontier: Frontier) -> pd.DataFrame:
    """Returns `held_out_table` of the best cells of any budget that take no longer than a method alone at a budget.

    `budget` is a text that names this limit, and `chosen` one that names the cell's budget. Empty without times.
    """
    limits: dict[int, float] = {}
    for cell in frames:
        if frontier.alone(cell) and not np.isnan(frontier.time(cell)):
            limits[cell.keep] = max(frontier.time(cell), limits.get(cell.keep, 0.0))
    named = {_with_budget(cell): frame for cell, frame in frames.items()}
    groups = {
        f"{most:.2f} ms, which a method alone takes at {keep} tokens": _groups(
            named, frontier, lambda cell, most=most: frontier.time(cell) <= most
        )
        for keep, most in sorted(limits.items(), reverse=True)
    }
    return held_out_table(named, groups) if groups else pd.DataFrame()


def _with_budget(cell: Cell) -> Cell:
    return cell if cell.family in BUDGETLESS else cell._replace(scorer=f"{cell.scorer} to {cell.keep} tokens")


def chosen(table: pd.DataFrame) -> dict[int, pd.Series]:
    """Returns the row of the best mix at every budget of a table of `held_out_table`."""
    rows = table[table["group"] == MIX].drop_duplicates("budget") if len(table) else table
    return {int(row["budget"]): row for _, row in rows.iterrows()}


def _groups(frames: Mapping[Cell, pd.DataFrame], frontier: Frontier, admitted: Callable[[Cell], bool]) -> list[Group]:
    cells = [cell for cell in frames if cell.family not in BUDGETLESS and admitted(cell)]
    controls = (DOWNSAMPLE, RANDOM)
    return [
        Group(MIX, [cell for cell in cells if frontier.mixed(cell)], (ALONE, *controls, "full")),
        Group(ALONE, [cell for cell in cells if frontier.alone(cell)], (*controls, "full")),
        *(Group(name, [cell for cell in cells if cell.family == name]) for name in controls),
        Group("full", [cell for cell in frames if cell.family == "full"]),
    ]


def _difference(name: str, own: pd.DataFrame, rival: pd.DataFrame | None) -> dict[str, float]:
    names = (name, f"{name}_low", f"{name}_high")
    if rival is None or rival is own:
        return dict.fromkeys(names, np.nan)
    return dict(zip(names, difference_interval(own["score"], rival["score"], own["image_id"])[:3], strict=True))
