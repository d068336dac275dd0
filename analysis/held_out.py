"""The best of several cells, chosen on one half of the images and compared with controls on the other half.

A cell that is chosen because it did best and reported on the same questions is flattered by its luck there.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.ablation.data import Cell, runs_of
from analysis.statistics import difference_interval, mean_interval
from analysis.tables import accuracy, between, grid, judged
from analysis.verdicts import holm, paired_p, too_few

TITLE = "## Best, chosen on one half of the images"
LEGEND = (
    "Of each group the cell with the highest accuracy on half of the images ({chosen_on:,} questions) was chosen; all "
    "numbers are of the other half: n = {n:,} questions about {images:,} images. Differences in points, paired by "
    "question, in brackets 95 % intervals over images; *better* and *worse* by permutation test over images, "
    "Holm-corrected over all pairs that are compared on this half."
)
_DIFFERENCE = ("difference", "low", "high")


class Group(NamedTuple):
    """Cells of one budget, the best of which is chosen.

    Attributes:
        name: What the best cell is called, such as "best single layer".
        cells: The candidates; one alone needs no choice.
        rivals: Names of the groups whose best cells it is compared with.
    """

    name: str
    cells: Sequence[Cell]
    rivals: tuple[str, ...] = ()


def choosing_half(images: ArrayLike) -> np.ndarray:
    """Returns which questions cells are chosen on: those about a random half of the images, rounded down.

    Args:
        images: (question) image of each question.

    Returns:
        (question) bool, the same for the same set of images.
    """
    names, index = np.unique(np.asarray(images), return_inverse=True)
    return (np.random.default_rng(0).permutation(len(names)) < len(names) // 2)[index]


def held_out_table(frames: Mapping[Cell, pd.DataFrame], groups: Mapping[int, Sequence[Group]]) -> pd.DataFrame:
    """Returns one row per budget, group and rival, or one row for a group without rivals.

    Columns: budget, group, chosen (scorer), chosen_on (questions), n, images, accuracy, ci_low, ci_high, rival,
    rival_chosen, difference, low, high, p, p_holm (over its distinct pairs), seeds (of both sides). Empty where
    there is a single image, which has no halves.

    Args:
        frames: As `read_cells` gives them.
        groups: By budget; groups without cells are left out.
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
            first |= _accuracy(rest[own])
            rivals = [name for name in group.rivals if name in best and best[name] != own]
            rows += [first | {"rival": name} | _against(rest, own, best[name]) for name in rivals] or [first]
    table = pd.DataFrame(rows)
    for column in ("rival", "rival_chosen", *_DIFFERENCE, "p", "seeds"):
        table[column] = table.get(column, np.nan)
    return corrected(table)[0]


def corrected(*tables: pd.DataFrame) -> list[pd.DataFrame]:
    """Returns the tables with p values that are Holm-corrected over the distinct pairs of all of them.

    A pair that stands in two tables is one test, and has one verdict.

    Args:
        tables: As `held_out_table` gives them, of the same records.
    """
    tests = {key: row.p for table in tables for key, row in _pairs(table)}
    p = dict(zip(tests, holm(list(tests.values())), strict=True))
    return [
        table.assign(p_holm=pd.Series({row.Index: p[key] for key, row in _pairs(table)}, dtype=float))
        for table in tables
    ]


def _pairs(table: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], Any]]:
    """Yields the rows with a test, each with what names its pair."""
    rows: Any = table.itertuples()
    for row in rows:
        if not np.isnan(row.p):
            first, second = sorted((str(row.chosen), str(row.rival_chosen)))
            yield (str(row.budget), first, second), row


def too_few_held_out(table: pd.DataFrame) -> str:
    """Returns that no test on half of the images can say anything, or nothing if one can."""
    tests = int(table["p"].notna().sum()) if len(table) else 0
    few = too_few(int(table["images"].iloc[0]), tests, int(table["seeds"].max())) if tests else ""
    return f"On one half of the images: {few[0].lower()}{few[1:]}" if few else ""


def markdown(table: pd.DataFrame, *, verdicts: bool = True) -> str:
    """Returns the tables for readers, one per budget, with a column per rival.

    Args:
        table: As `held_out_table` gives it.
        verdicts: Whether differences are called better or worse.
    """
    if table.empty:
        return "A single image has no halves: nothing was chosen."
    parts = [LEGEND.format(**table.iloc[0][["chosen_on", "n", "images"]])]
    for budget, rows in table.groupby("budget", sort=False):
        parts.append(f"### {budget} tokens\n\n{grid(_wide(rows, verdicts=verdicts))}")
    return "\n\n".join(parts)


def printed(table: pd.DataFrame, budget: int, *, verdicts: bool = True) -> str:
    """Returns the table of one budget for a terminal, one line per group and rival."""
    rows = table[table["budget"] == budget] if len(table) else table
    if rows.empty:
        return ""
    first = rows.iloc[0]
    lines = [
        f"At {budget} tokens, chosen on {first['chosen_on']:,} questions, reported on {first['n']:,} others about "
        f"{first['images']:,} images (points, 95 % intervals; verdicts Holm-corrected):"
    ]
    for name, some in rows.groupby("group", sort=False):
        row = some.iloc[0]
        lines.append(f"  {_called(str(name), row['chosen'])}: {accuracy(row, ' %')}")
        lines += [
            f"    against {_called(other['rival'], other['rival_chosen'])}: {_told(other, verdicts)}"
            for _, other in some.iterrows()
            if pd.notna(other["rival"])
        ]
    return "\n".join(lines)


def _wide(rows: pd.DataFrame, *, verdicts: bool) -> list[dict[str, str]]:
    rivals = [name for name in rows["rival"].dropna().unique()]
    lines = []
    for name, some in rows.groupby("group", sort=False):
        told = {other["rival"]: _told(other, verdicts) for _, other in some.iterrows() if pd.notna(other["rival"])}
        line = {"chosen": _called(str(name), some["chosen"].iloc[0]), "accuracy": accuracy(some.iloc[0])}
        lines.append(line | {f"minus {rival}": told.get(rival, "") for rival in rivals})
    return lines


def _called(group: str, chosen: str) -> str:
    return group if group == chosen else f"{group} ({chosen})"


def _told(row: pd.Series, verdicts: bool) -> str:
    text = between(row, _DIFFERENCE)
    return f"{text} {judged(row['difference'], row['p_holm'])}".strip() if verdicts else text


def _accuracy(frame: pd.DataFrame) -> dict[str, float]:
    mean, low, high, n = mean_interval(frame["score"], frame["image_id"])
    return {"n": n, "images": frame["image_id"].nunique(), "accuracy": mean, "ci_low": low, "ci_high": high}


def _against(rest: Mapping[Cell, pd.DataFrame], own: Cell, rival: Cell) -> dict[str, str | float]:
    a, b = rest[own], rest[rival]
    delta = difference_interval(a["score"], b["score"], a["image_id"])
    p, seeds = paired_p(runs_of(a), runs_of(b), a["image_id"]), int(a["seeds"].iloc[0] + b["seeds"].iloc[0])
    found = {"difference": delta.mean, "low": delta.low, "high": delta.high, "p": p, "seeds": seeds}
    return {"rival_chosen": rival.scorer} | found
