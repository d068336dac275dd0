"""An ablation table as files: CSV for machines, Markdown for readers."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from analysis.verdicts import side
from foveate.core.storage import atomic_write

LEGEND = (
    "n = {n} questions about {images} images. Accuracy in %, differences in points; in brackets the 95 % interval "
    "over images: Wilson's at the effective number of questions. Differences are paired by question; p: permutation "
    "test over images against random patches (all seeds), Holm-corrected over the table; *better* or *worse* where p "
    "is below 0.05, whatever the interval."
)


def write_table(table: pd.DataFrame, folder: Path, text: str) -> None:
    """Writes `table.csv` (six decimals, the same bytes for the same table) and `table.md`, each complete or not at all.

    Args:
        table: As `ablation_table` gives it.
        folder: Where to write; made if missing.
        text: Of `table.md`.
    """
    rounded = table.copy()
    numbers = rounded.select_dtypes("float").columns
    rounded[numbers] = rounded[numbers].round(6) + 0.0  # -0.0 would print a sign
    with atomic_write(folder / "table.csv") as path:
        rounded.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")
    with atomic_write(folder / "table.md") as path:
        path.write_text(text, encoding="utf-8")


def markdown(table: pd.DataFrame, caveat: str = "") -> str:
    """The table for readers, one section per budget.

    Args:
        table: As `ablation_table` gives it.
        caveat: Why there are no verdicts; without one every row has its verdict.
    """
    patches = table.loc[table["family"] == "full", "keep"].max()
    size = table.iloc[0]
    legend = LEGEND.format(n=f"{size['n']:,}", images=f"{size['images']:,}")
    parts = [legend, caveat] if caveat else [legend]
    for keep, rows in table.groupby("keep", sort=False):
        share = "" if pd.isna(patches) else f" of {patches:.0f} ({percent(keep / patches)} %)"
        parts += [f"## Patches kept: {keep}{share}", grid([_cells(row, not caveat) for _, row in rows.iterrows()])]
    return "\n\n".join(parts) + "\n"


def summary(table: pd.DataFrame) -> str:
    """Accuracy with interval of every scorer (rows) at every budget (columns), for a terminal."""
    shown = table.assign(accuracy=[accuracy(row) for _, row in table.iterrows()])
    wide = shown.pivot(index="scorer", columns="keep", values="accuracy")
    return wide.loc[shown["scorer"].drop_duplicates(), sorted(wide.columns, reverse=True)].fillna("").to_string()


def paragraphs(*parts: str) -> str:
    """Returns the parts that are not empty with a blank line between them."""
    return "\n\n".join(part.strip() for part in parts if part)


def percent(value: float) -> str:
    """A share in [0, 1] as a percentage with one decimal, without the sign; `-` for NaN."""
    return _number(value, lambda share: f"{round(100 * share, 1) + 0.0:.1f}")


def points(value: float) -> str:
    """A signed difference in percentage points with one decimal; `-` for NaN."""
    return _number(value, lambda share: f"{round(100 * share, 1) + 0.0:+.1f}")


def accuracy(row: pd.Series, unit: str = "") -> str:
    """The accuracy of a row with its interval: `81.2 [79.5, 82.8]`."""
    return _interval(row, ("accuracy", "ci_low", "ci_high"), percent, unit)


def between(row: pd.Series, names: tuple[str, str, str], unit: str = "") -> str:
    """A difference with its interval, which stand in these columns: `-1.2 [-2.0, -0.5]`."""
    return _interval(row, names, points, unit)


def against_full(row: pd.Series) -> str:
    """The difference from `full` with its interval."""
    return between(row, ("delta_vs_full", "delta_ci_low", "delta_ci_high"))


def cost(row: pd.Series) -> str:
    """What was lost against `full`: `1.2 points [0.5, 2.0]`."""
    mean, low, high = (percent(-row[name]) for name in ("delta_vs_full", "delta_ci_high", "delta_ci_low"))
    return f"{mean} points [{low}, {high}]"


def against_random(row: pd.Series, unit: str = "") -> str:
    """The difference from `random` with its interval."""
    return between(row, ("delta_vs_random", "delta_vs_random_low", "delta_vs_random_high"), unit)


def p_value(value: float) -> str:
    """A p value with three decimals, `<0.001` below; `-` for NaN."""
    return _number(value, lambda p: "<0.001" if p < 0.001 else f"{p:.3f}")


def judged(difference: float, p: float) -> str:
    """Returns the verdict on a difference by its corrected p: better, worse or not shown; nothing without a test."""
    return "" if pd.isna(p) else {1: "better", -1: "worse", 0: "not shown"}[side(difference, p)]


def tested(difference: float, p: float, verdicts: bool = True) -> str:
    """Returns a corrected p value with its verdict: `0.003 better`."""
    return f"{p_value(p)} {judged(difference, p)}".strip() if verdicts else p_value(p)


def _interval(row: pd.Series, names: tuple[str, str, str], form: Callable[[float], str], unit: str) -> str:
    mean, low, high = (form(row[name]) for name in names)
    if mean == "-":
        return mean
    return f"{mean}{unit} [{'no interval' if low == '-' else f'{low}, {high}'}]"


def _number(value: float, form: Callable[[float], str]) -> str:
    return "-" if pd.isna(value) else form(value)


def _cells(row: pd.Series, verdicts: bool) -> dict[str, str]:
    seeds = f" ({row['seeds']} seeds)" if row["seeds"] > 1 else ""
    return {
        "scorer": f"{row['scorer']}{seeds}",
        "accuracy": accuracy(row),
        "vs full": against_full(row),
        "vs random": against_random(row),
        "p": tested(row["delta_vs_random"], row["p_vs_random_holm"], verdicts),
        "evidence recall": percent(row["evidence_recall"]),
        "all things kept": percent(row["things_kept"]),
        "same answer as full": percent(row["agreement_with_full"]),
    }


def grid(rows: list[dict[str, str]]) -> str:
    """Rows with the same keys as a Markdown table."""
    lines = [list(rows[0]), [":--", *["--:"] * (len(rows[0]) - 1)], *[list(row.values()) for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
