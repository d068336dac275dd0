"""Best cells of a study, chosen on one half of the images and compared with controls on the other half.

The accuracy of a cell is biased upwards on the questions on which it was chosen as the best.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from foveate.analysis.cells import PIXEL_FILTERS, Cell, accuracy_of, caveat, runs_of
from foveate.analysis.statistics import difference_interval
from foveate.analysis.tables import accuracy, between, grid, judged, paragraphs
from foveate.analysis.verdicts import holm, paired_p, too_few

BEST_FILTER = "best pixel filter"
_CANDIDATES = ("single", "suffix", "all", "vision", "decoder", "both")
_DIFFERENCE = ("difference", "low", "high")
_LEGEND = (
    "The best cell of each group is chosen on half of the images ({chosen_on:,} questions) and reported on the other "
    "half: n = {n:,} questions about {images:,} images. Accuracy in %, differences in points, paired by question, with "
    "95 % intervals over images. Verdicts rest on p < 0.05 in a permutation test over images, Holm-corrected over all "
    "pairs of this half."
)


class Group(NamedTuple):
    """Cells of one budget, the best of which is chosen.

    Attributes:
        name: Name of the best cell, such as "best single layer".
        cells: The candidates; a single candidate needs no choice.
        rivals: Names of the groups whose best cells it is compared with.
    """

    name: str
    cells: Sequence[Cell]
    rivals: tuple[str, ...] = ()


class HeldOut(NamedTuple):
    """Comparisons on the half of the images on which nothing was chosen.

    Attributes:
        caveat: Reason why there are no verdicts, or an empty string.
        chosen: Table of `held_out_table`.
        filters: Table of `against_filters`.
    """

    caveat: str
    chosen: pd.DataFrame
    filters: pd.DataFrame

    def markdown(self, *budgets: int) -> str:
        """Returns the chosen cells with their differences from the rivals, at these budgets or at all."""
        rows = self.chosen[self.chosen["budget"].isin(budgets)] if budgets and len(self.chosen) else self.chosen
        return markdown(rows, verdicts=not self.caveat)

    def page(self, table: str, failed: str) -> str:
        """Returns the text of `table.md`.

        Args:
            table: The study's table as Markdown.
            failed: Note on questions that failed, or an empty string.
        """
        parts = [table, "## Best, chosen on one half of the images", self.markdown()]
        if len(self.filters):
            parts += [f"## Differences from the {BEST_FILTER}", filters_markdown(self.filters, not self.caveat)]
        return paragraphs(*parts, failed) + "\n"


def held_out(
    frames: Mapping[Cell, pd.DataFrame],
    table: pd.DataFrame,
    groups: Mapping[int, Sequence[Group]],
    roles: Mapping[str, str] | None = None,
) -> HeldOut:
    """Returns the held-out comparisons of a study.

    Args:
        frames: The records, as `read_cells` returns them.
        table: The table of the same cells.
        groups: Groups by budget.
        roles: Role of every family in a comparison; None means that a family is its own role.
    """
    candidates = [cell for cell in frames if (roles or {}).get(cell.family, cell.family) in _CANDIDATES]
    chosen, filters = corrected(held_out_table(frames, groups), against_filters(frames, candidates))
    return HeldOut(caveat(frames, table) or too_few_held_out(chosen), chosen, filters)


def choosing_half(images: ArrayLike) -> np.ndarray:
    """Returns a mask of the questions on which cells are chosen, those about a random half of the images.

    Args:
        images: (question) image of each question.

    Returns:
        (question) bool, the same for the same set of images; half of an odd number is rounded down.
    """
    names, index = np.unique(np.asarray(images), return_inverse=True)
    return (np.random.default_rng(0).permutation(len(names)) < len(names) // 2)[index]


def held_out_table(frames: Mapping[Cell, pd.DataFrame], groups: Mapping[Any, Sequence[Group]]) -> pd.DataFrame:
    """Returns one row per budget, group and rival, or one row for a group without rivals.

    Columns: budget, group, chosen (scorer), chosen_on (questions), n, images, accuracy, ci_low, ci_high, rival,
    rival_chosen, difference, low, high, p, p_holm (over the distinct pairs), seeds (of both sides). Empty if there is
    only one image.

    Args:
        frames: The records, as `read_cells` returns them.
        groups: Groups by budget, or by another limit; groups without cells are left out.
    """
    images = next(iter(frames.values()))["image_id"].to_numpy() if frames else np.empty(0)
    half, rows = choosing_half(images), []
    if not half.any():
        return pd.DataFrame()
    rest = {cell: frame[~half] for cell, frame in frames.items()}
    for budget, some in groups.items():
        means = {cell: frames[cell]["score"].to_numpy(float)[half].mean() for group in some for cell in group.cells}
        best = {group.name: max(group.cells, key=means.__getitem__) for group in some if group.cells}
        for group in (group for group in some if group.cells):
            own = best[group.name]
            first = {"budget": budget, "group": group.name, "chosen": own.scorer, "chosen_on": int(half.sum())}
            first |= accuracy_of(rest[own])
            rivals = [name for name in group.rivals if name in best and best[name] != own]
            rows += [first | {"rival": name} | _against(rest, own, best[name]) for name in rivals] or [first]
    table = pd.DataFrame(rows)
    for column in ("rival", "rival_chosen", *_DIFFERENCE, "p", "seeds"):
        table[column] = table.get(column, np.nan)
    return corrected(table)[0]


def against_filters(frames: Mapping[Cell, pd.DataFrame], candidates: Iterable[Cell]) -> pd.DataFrame:
    """Returns the difference of every candidate from the best pixel filter at its budget, which needs no network.

    Only the filter is chosen, on the choosing half, so p holds for each candidate; it is corrected over all of them.

    Args:
        frames: The records, as `read_cells` returns them.
        candidates: Some of their cells; those of a budget without a filter are left out.

    Returns:
        The columns of `held_out_table`: one row per candidate, named in `chosen`, and one row per budget for the
        filter, without a `rival`. Empty without filters.
    """
    candidates, groups = list(candidates), {}
    for keep in dict.fromkeys(cell.keep for cell in candidates):
        filters = [cell for cell in frames if cell.keep == keep and cell.family in PIXEL_FILTERS]
        if filters:
            here = [Group(cell.scorer, [cell], (BEST_FILTER,)) for cell in candidates if cell.keep == keep]
            groups[keep] = [*here, Group(BEST_FILTER, filters)]
    return held_out_table(frames, groups) if groups else pd.DataFrame()


def corrected(*tables: pd.DataFrame) -> list[pd.DataFrame]:
    """Returns the tables with p values that are Holm-corrected over the distinct pairs of all tables.

    A pair in two tables is one test and has one verdict.

    Args:
        tables: Tables of `held_out_table` from the same records.
    """
    tests = {key: row.p for table in tables for key, row in _pairs(table)}
    p = dict(zip(tests, holm(list(tests.values())), strict=True))
    return [
        table.assign(p_holm=pd.Series({row.Index: p[key] for key, row in _pairs(table)}, dtype=float))
        for table in tables
    ]


def too_few_held_out(table: pd.DataFrame) -> str:
    """Returns the reason why half of the images allow no verdict, or an empty string if they allow one."""
    tests = int(table["p"].notna().sum()) if len(table) else 0
    few = too_few(int(table["images"].iloc[0]), tests, int(table["seeds"].max())) if tests else ""
    return f"On one half of the images: {few[0].lower()}{few[1:]}" if few else ""


def markdown(table: pd.DataFrame, *, verdicts: bool = True, unit: str = " tokens") -> str:
    """Returns one Markdown table per budget, with a row per group and a column per rival.

    Args:
        table: Table of `held_out_table`.
        verdicts: Whether differences have a verdict.
        unit: Unit of the budgets in headings.
    """
    if table.empty:
        return "A single image has no halves: nothing was chosen."
    parts = [_LEGEND.format(**table.iloc[0][["chosen_on", "n", "images"]])]
    for budget, rows in table.groupby("budget", sort=False):
        parts.append(f"### {budget}{unit}\n\n{grid(_wide(rows, verdicts))}")
    return "\n\n".join(parts)


def filters_markdown(table: pd.DataFrame, verdicts: bool = True) -> str:
    """Returns a Markdown table with a row per scorer and a column per budget.

    Args:
        table: Table of `against_filters`.
        verdicts: Whether differences have a verdict.
    """
    best = table[table["rival"].isna()].set_index("budget")
    rows: dict[str, dict[str, str]] = {}
    rows[BEST_FILTER] = {
        f"{budget} tokens": f"{row['chosen']}: {accuracy(row, ' %')}" for budget, row in best.iterrows()
    }
    for _, row in table[table["rival"].notna()].iterrows():
        rows.setdefault(row["chosen"], {})[f"{row['budget']} tokens"] = _difference(row, verdicts)
    columns = list(rows[BEST_FILTER])
    return grid([{"scorer": name} | {column: row.get(column, "") for column in columns} for name, row in rows.items()])


def _pairs(table: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], Any]]:
    """Yields the rows with a test, each with the key of its pair."""
    rows: Any = table.itertuples()
    for row in rows:
        if not np.isnan(row.p):
            first, second = sorted((str(row.chosen), str(row.rival_chosen)))
            yield (str(row.budget), first, second), row


def _wide(rows: pd.DataFrame, verdicts: bool) -> list[dict[str, str]]:
    rivals = [name for name in rows["rival"].dropna().unique()]
    lines = []
    for name, some in rows.groupby("group", sort=False):
        cells = {row["rival"]: _difference(row, verdicts) for _, row in some.iterrows() if pd.notna(row["rival"])}
        chosen = some["chosen"].iloc[0]
        line = {"chosen": name if name == chosen else f"{name} ({chosen})", "accuracy": accuracy(some.iloc[0])}
        lines.append(line | {f"minus {rival}": cells.get(rival, "") for rival in rivals})
    return lines


def _difference(row: pd.Series, verdicts: bool) -> str:
    text = between(row, _DIFFERENCE)
    return f"{text} {judged(row['difference'], row['p_holm'])}".strip() if verdicts else text


def _against(rest: Mapping[Cell, pd.DataFrame], own: Cell, rival: Cell) -> dict[str, str | float]:
    a, b = rest[own], rest[rival]
    delta = difference_interval(a["score"], b["score"], a["image_id"])
    p, seeds = paired_p(runs_of(a), runs_of(b), a["image_id"]), int(a["seeds"].iloc[0] + b["seeds"].iloc[0])
    found = {"difference": delta.mean, "low": delta.low, "high": delta.high, "p": p, "seeds": seeds}
    return {"rival_chosen": rival.scorer} | found
