"""What a comparison says, in sentences that claim no more than the intervals and Holm's correction allow."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from analysis.ablation import read_cells
from analysis.answer import SIGNIFICANT
from analysis.comparison import Comparison, budgets_of, methods_at, share
from analysis.statistics import difference_interval
from analysis.tables import accuracy, points


def comparison_answer(table: pd.DataFrame, comparison: Comparison, out: Path) -> str:
    """A paragraph per budget: which methods beat random patches, which do not, and which controls are as good.

    Args:
        table: As `comparison_table` gives it.
        comparison: Of that table.
        out: Folder that holds `records/`, for the paired differences between the best method and the controls.
    """
    size = table.iloc[0]
    budgets = [budget for budget in budgets_of(table) if len(methods_at(table, budget))]
    if not budgets:
        return "No method was compared: the table holds nothing but controls and oracles."
    parts = [
        f"n = {size['n']:,} questions about {size['images']:,} images; p Holm-corrected over the table; brackets hold "
        "95 % intervals over images."
    ]
    parts += [_paragraph(table, budget, comparison, out) for budget in budgets]
    if comparison.not_applicable:
        parts.append(f"Cannot run on this model: {_listed(comparison.not_applicable)}; table.md says why.")
    return "\n\n".join(parts)


def _paragraph(table: pd.DataFrame, budget: int, comparison: Comparison, out: Path) -> str:
    rows, controls = methods_at(table, budget), methods_at(table, budget, ("control", "oracle"))
    names = [*rows["method"], *controls["method"]]
    cells = [cell for cell in comparison.cells if cell.keep == budget and cell.family in names]
    frames = {cell.family: frame for cell, frame in read_cells(cells, out).items()}
    lines, best = [f"At {share(budget, comparison.patches)}:"], rows.iloc[0]
    if "random" in frames:
        lines += _significance(rows, controls[controls["method"] == "random"].iloc[0])
    text = f"Best, picked on these same questions, which flatters it: {best['method']}, {accuracy(best, ' %')}."
    lines.append(f"{text} Against it: {_sides(frames, controls['method'], best['method'])}.")
    inside = rows.loc[rows["role"] == "decoder", "method"]
    if "random_inside" in frames and len(inside):
        control = controls[controls["method"] == "random_inside"].iloc[0]
        text = f"Random patches, dropped where FastV drops its own, reach {accuracy(control, ' %')}."
        lines.append(f"{text} Against them, of what drops inside: {_sides(frames, inside, 'random_inside')}.")
    if missing := [name for name, whys in comparison.left_out.items() if str(budget) in whys]:
        lines.append(f"Cannot have this budget: {_listed(missing)}.")
    return "\n  ".join(lines)


def _significance(rows: pd.DataFrame, random: pd.Series) -> list[str]:
    delta, p = rows["delta_vs_random"], rows["p_vs_random_holm"]
    sides = {
        "Better than them": rows[(p < SIGNIFICANT) & (delta > 0)],
        "Not to be told from them": rows[p >= SIGNIFICANT],
        "Worse than them": rows[(p < SIGNIFICANT) & (delta < 0)],
    }
    shown = {
        name: _listed(f"{row['method']} ({points(row['delta_vs_random'])})" for _, row in side.iterrows())
        for name, side in sides.items()
    }
    return [
        f"Random patches reach {accuracy(random, ' %')}.",
        *(f"{name}: {listed}." for name, listed in shown.items()),
    ]


def _sides(frames: Mapping[str, pd.DataFrame], names: Iterable[str], baseline: str) -> str:
    """Which are above, level with and below a baseline, by the paired 95 % interval, which nothing corrects."""
    sides: dict[str, list[str]] = {"above": [], "level": [], "below": []}
    theirs = frames[baseline]
    for name in names:
        delta = difference_interval(frames[name]["score"], theirs["score"], theirs["image_id"])
        side = "level" if delta.low <= 0 <= delta.high else "above" if delta.low > 0 else "below"
        sides[side].append(f"{name} ({points(delta.mean)} [{points(delta.low)}, {points(delta.high)}])")
    return "; ".join(f"{side}: {_listed(found)}" for side, found in sides.items())


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
