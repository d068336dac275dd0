"""Tables as CSV and Markdown, and the formats of their numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from foveate.analysis.verdicts import side
from foveate.core.storage import atomic_write

VERDICTS = {1: "better", -1: "worse", 0: "not significant"}


class Summary(NamedTuple):
    """The text of a report, besides its tables and figures.

    Attributes:
        rows: The accuracy of every row at every budget, as text for a terminal.
        finding: Verdicts with n and intervals, in Markdown.
    """

    rows: str
    finding: str

    @property
    def text(self) -> str:
        return paragraphs(*self)


def write_table(table: pd.DataFrame, folder: Path, text: str) -> None:
    """Writes `table.csv` with six decimals and `table.md` atomically; the same table gives the same bytes.

    Args:
        table: The table.
        folder: Folder to write to; created if missing.
        text: Content of `table.md`.
    """
    rounded = table.copy()
    numbers = rounded.select_dtypes("float").columns
    rounded[numbers] = rounded[numbers].round(6) + 0.0  # adding 0.0 turns -0.0 into 0.0
    write_csv(rounded, folder / "table.csv")
    write_text(text, folder / "table.md")


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Writes a table with six decimals atomically."""
    with atomic_write(path) as file:
        table.to_csv(file, index=False, float_format="%.6f", lineterminator="\n")


def write_text(text: str, path: Path) -> None:
    """Writes a text file atomically."""
    with atomic_write(path) as file:
        file.write_text(text, encoding="utf-8")


def paragraphs(*parts: str) -> str:
    """Joins the parts that are not empty with blank lines."""
    return "\n\n".join(part.strip() for part in parts if part)


def percent(value: float) -> str:
    """Formats a share in [0, 1] as a percentage with one decimal, without the sign; `-` for NaN."""
    return _number(value, lambda share: f"{round(100 * share, 1) + 0.0:.1f}")


def points(value: float) -> str:
    """Formats a signed difference in percentage points with one decimal; `-` for NaN."""
    return _number(value, lambda share: f"{round(100 * share, 1) + 0.0:+.1f}")


def accuracy(row: pd.Series, unit: str = "") -> str:
    """Formats the accuracy of a row with its interval: `81.2 [79.5, 82.8]`."""
    return with_interval(row, ("accuracy", "ci_low", "ci_high"), percent, unit)


def between(row: pd.Series, names: tuple[str, str, str], unit: str = "") -> str:
    """Formats a difference with its interval, read from these columns: `-1.2 [-2.0, -0.5]`."""
    return with_interval(row, names, points, unit)


def against_full(row: pd.Series) -> str:
    """Formats the difference from `full` with its interval."""
    return between(row, ("delta_vs_full", "delta_ci_low", "delta_ci_high"))


def against_random(row: pd.Series, unit: str = "") -> str:
    """Formats the difference from `random` with its interval."""
    return between(row, ("delta_vs_random", "delta_vs_random_low", "delta_vs_random_high"), unit)


def one_decimal(value: float) -> str:
    """Formats a number with one decimal; `-` for NaN."""
    return _number(value, lambda number: f"{number:.1f}")


def p_value(value: float) -> str:
    """Formats a p value with three decimals, `<0.001` below; `-` for NaN."""
    return _number(value, lambda p: "<0.001" if p < 0.001 else f"{p:.3f}")


def judged(difference: float, p: float) -> str:
    """Returns the verdict on a difference by its corrected p; an empty string without a test."""
    return "" if pd.isna(p) else VERDICTS[side(difference, p)]


def tested(difference: float, p: float, verdicts: bool = True) -> str:
    """Formats a corrected p value with its verdict: `0.003 better`."""
    return f"{p_value(p)} {judged(difference, p)}".strip() if verdicts else p_value(p)


def with_interval(row: pd.Series, names: tuple[str, str, str], form: Callable[[float], str], unit: str = "") -> str:
    """Formats a number with its interval, read from these columns.

    Args:
        row: Row of a table.
        names: Columns of the number and of the ends of its interval.
        form: Formats a number; `-` stands for NaN.
        unit: Unit behind the number.
    """
    mean, low, high = (form(row[name]) for name in names)
    if mean == "-":
        return mean
    return f"{mean}{unit} [{'no interval' if low == '-' else f'{low}, {high}'}]"


def _number(value: float, form: Callable[[float], str]) -> str:
    return "-" if pd.isna(value) else form(value)


def grid(rows: list[dict[str, str]]) -> str:
    """Formats rows with the same keys as a Markdown table."""
    lines = [list(rows[0]), [":--", *["--:"] * (len(rows[0]) - 1)], *[list(row.values()) for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
