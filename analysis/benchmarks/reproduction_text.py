"""The report of a reproduction in words and Markdown tables."""

from collections.abc import Mapping

import pandas as pd

from analysis.benchmarks.paper import MODEL, PAPER
from analysis.tables import grid, p_value


def written(tables: Mapping[str, pd.DataFrame], model: str, tolerance: float, whole: bool) -> str:
    """Returns the report: averages, gaps between methods, and single numbers.

    Args:
        tables: "averages", "gaps" and "table", as `reproduction` makes them.
        model: That was run.
        tolerance: Largest difference, in points, at which a number is the same.
        whole: Whether all questions of every benchmark were asked.
    """
    parts = [_legend(model, tolerance)]
    if not whole:
        parts.append("Only a part of the questions was asked (--limit), so no number is compared with the paper's.")
    averages, gaps, numbers = (tables[name] for name in ("averages", "gaps", "table"))
    if not averages.empty:
        text = (
            "Means over the benchmarks that were run, without MM-Vet, in % and in per cent of the uncompressed model "
            "(retained: the mean over benchmarks of the ratio). The published side is computed likewise from the "
            "paper's numbers; 'printed' is the average that the paper prints, over all eight benchmarks."
        )
        parts += ["## Averages and per cent retained", text, grid([_average(row) for _, row in averages.iterrows()])]
    if not gaps.empty:
        text = (
            "The paper says that VTC-CLS is better than both on average. Gaps are paired by question, in points; p is "
            "that of a permutation test over images, Holm-corrected over this table. 'Confirmed' and 'contrary' say "
            "that a gap with the published sign, or with the other, is shown (p below 0.05)."
        )
        parts += ["## Gaps between methods", text, grid([_gap(row) for _, row in gaps.iterrows()]), _counts(gaps)]
    parts += ["## Numbers", grid([_number(row) for _, row in numbers.iterrows()]), _counts(numbers)]
    return "\n\n".join(parts)


def _legend(model: str, tolerance: float) -> str:
    return (
        f"Run on {model}, beside the numbers of {PAPER} (arXiv 2412.05819) for {MODEL}; about the paper this says "
        "something only if the two models are the same. A re-run asks the same questions, so a number is the 'same' "
        f"where it differs from the published one by at most {tolerance:g} points. Brackets hold 95 % intervals over "
        "images, which say how far other images could move a number. VTC-CLS is run from layer 16 of 24, the default "
        "of its scripts, and with K = 3, from layer 20; on towers of another depth both are scaled."
    )


def _average(row: pd.Series) -> dict[str, str]:
    return {
        "method": row["method"],
        "kept": str(row["kept"]),
        "benchmarks": str(row["benchmarks"]),
        "n": f"{row['n']:,}",
        "ours": _bracketed(row["ours"], row["low"], row["high"]),
        "published": _plain(row["published"]),
        "difference": _signed(row["difference"]),
        "verdict": row["verdict"],
        "retained, %": _bracketed(row["retained"], row["retained low"], row["retained high"]),
        "published retained, %": _plain(row["published retained"]),
        "difference retained": _signed(row["difference retained"]),
        "printed": _plain(row["printed average"]),
    }


def _gap(row: pd.Series) -> dict[str, str]:
    return {
        "gap": f"{row['method']} - {row['against']}",
        "kept": str(row["kept"]),
        "benchmark": row["benchmark"],
        "n": f"{row['n']:,}",
        "ours": _bracketed(row["ours"], row["low"], row["high"], "+"),
        "p": p_value(row["p_holm"]),
        "published": _signed(row["published"]),
        "difference": _signed(row["difference"]),
        "verdict": row["verdict"],
    }


def _number(row: pd.Series) -> dict[str, str]:
    return {
        "benchmark": row["benchmark"],
        "method": row["method"],
        "kept": str(row["kept"]),
        "number": row["number"],
        "n": f"{row['n']:,}",
        "ours": _bracketed(row["ours"], row["low"], row["high"]),
        "published": _plain(row["published"]),
        "difference": _signed(row["difference"]),
        "verdict": row["verdict"],
    }


def _bracketed(value: float, low: float, high: float, sign: str = "") -> str:
    if pd.isna(value):
        return "-"
    ends = "no interval" if pd.isna(low) or pd.isna(high) else f"{low:{sign}.1f}, {high:{sign}.1f}"
    return f"{value:{sign}.1f} [{ends}]"


def _plain(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.1f}"


def _signed(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:+.1f}"


def _counts(table: pd.DataFrame) -> str:
    counts = table["verdict"].value_counts()
    return f"Verdicts: {', '.join(f'{counts[name]} {name}' for name in counts.index if name != '-') or 'none'}."
