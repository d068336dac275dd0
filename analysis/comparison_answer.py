"""What a comparison says, in sentences that claim no more than the intervals and Holm's correction allow."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from analysis.ablation import read_cells
from analysis.answer import SIGNIFICANT
from analysis.comparison import Comparison, methods_at
from analysis.statistics import difference_interval
from analysis.tables import accuracy, percent, points


def comparison_answer(table: pd.DataFrame, comparison: Comparison, out: Path) -> str:
    """A paragraph per budget: which methods beat random patches, which do not, and which controls are as good.

    Args:
        table: As `comparison_table` gives it.
        comparison: Of that table.
        out: Folder that holds `records/`, for the paired differences between the best method and the controls.
    """
    size = table.iloc[0]
    budgets = [budget for budget in table["budget"].unique() if len(methods_at(table, budget))]
    if not budgets:
        return "No method was compared: the table holds nothing but controls and oracles."
    parts = [
        f"n = {size['n']:,} questions about {size['images']:,} images; p Holm-corrected over the table; brackets hold "
        "95 % intervals over images."
    ]
    parts += [_paragraph(table, int(budget), comparison, out) for budget in budgets]
    if comparison.not_applicable:
        parts.append(f"Cannot run on this model: {_listed(comparison.not_applicable)}; table.md says why.")
    return "\n\n".join(parts)


def _paragraph(table: pd.DataFrame, budget: int, comparison: Comparison, out: Path) -> str:
    rows = methods_at(table, budget)
    random = table[(table["budget"] == budget) & (table["method"] == "random")]
    share = percent(budget / comparison.patches)
    title = f"At {budget} equivalent tokens of {comparison.patches} ({share} %):"
    sentences = []
    if len(random):
        tested, p = rows["delta_vs_random"], rows["p_vs_random_holm"]
        for verdict, found in (
            ("Better than", rows[(p < SIGNIFICANT) & (tested > 0)]),
            ("Not to be told from", rows[~(p < SIGNIFICANT)]),
            ("Worse than", rows[(p < SIGNIFICANT) & (tested < 0)]),
        ):
            sentences.append(f"{verdict} random patches ({accuracy(random.iloc[0], ' %')}): {_with_points(found)}.")
    sentences.append(_controls(table, budget, rows.iloc[0], comparison, out))
    missing = [name for name, whys in comparison.left_out.items() if str(budget) in whys]
    if missing:
        sentences.append(f"Cannot have this budget: {_listed(missing)}.")
    return "\n".join([title, *(f"  {sentence}" for sentence in sentences)])


def _controls(table: pd.DataFrame, budget: int, best: pd.Series, comparison: Comparison, out: Path) -> str:
    """Controls and oracles against the best method, which was picked on the same questions."""
    names = methods_at(table, budget, ("control", "oracle"))["method"].tolist()
    cells = [c for c in comparison.cells if c.keep == budget and c.family in (best["method"], *names)]
    frames = {cell.family: frame for cell, frame in read_cells(cells, out).items()}
    best_frame = frames[best["method"]]
    lower, level, higher = [], [], []
    for name in names:
        delta = difference_interval(frames[name]["score"], best_frame["score"], best_frame["image_id"])
        side = level if delta.low <= 0 <= delta.high else higher if delta.low > 0 else lower
        side.append(f"{name} ({points(delta.mean)} [{points(delta.low)}, {points(delta.high)}])")
    text = f"Best method, picked on these same questions, which flatters it: {best['method']}, {accuracy(best, ' %')}."
    return f"{text} Level with it: {_listed(level)}; above it: {_listed(higher)}; below it: {_listed(lower)}."


def _with_points(rows: pd.DataFrame) -> str:
    return _listed(f"{row['method']} ({points(row['delta_vs_random'])})" for _, row in rows.iterrows())


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
