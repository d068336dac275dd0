"""Says what a comparison found, in sentences that claim no more than Holm's correction allows."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from analysis.ablation import read_cells, runs_of
from analysis.comparison import Comparison, budgets_of, methods_at, share
from analysis.statistics import Interval, difference_interval
from analysis.tables import accuracy, points
from analysis.verdicts import holm, paired_p, side, too_few


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
        f"n = {size['n']:,} questions about {size['images']:,} images; brackets hold 95 % intervals over images; "
        "verdicts are by p alone, Holm-corrected: against random patches over the table, otherwise over a paragraph."
    ]
    few = _too_few(table)
    parts += [few] if few else []
    parts += [_paragraph(table, budget, comparison, out, bool(few)) for budget in budgets]
    if comparison.not_applicable:
        parts.append(f"Cannot run on this model: {_listed(comparison.not_applicable)}; table.md says why.")
    return "\n\n".join(parts)


def _paragraph(table: pd.DataFrame, budget: int, comparison: Comparison, out: Path, few: bool) -> str:
    rows, controls = methods_at(table, budget), methods_at(table, budget, ("control", "oracle"))
    names = [*rows["method"], *controls["method"]]
    cells = [cell for cell in comparison.cells if cell.keep == budget and cell.family in names]
    frames = {cell.family: frame for cell, frame in read_cells(cells, out).items()}
    lines, best = [f"At {share(budget, comparison.patches)}:"], rows.iloc[0]
    if "random" in frames:
        lines += _significance(rows, controls[controls["method"] == "random"].iloc[0], few)
    inside = [name for name in rows.loc[rows["role"] == "decoder", "method"] if "random_inside" in frames]
    pairs = [(name, best["method"]) for name in controls["method"] if name != "random"]
    pairs += [(name, "random_inside") for name in inside]
    tested = _tested(frames, pairs)
    text = f"Best, picked on these same questions, which flatters it: {best['method']}, {accuracy(best, ' %')}."
    lines.append(f"{text} Against it: {_sides(tested, controls['method'], best['method'], few)}.")
    if inside:
        control = controls[controls["method"] == "random_inside"].iloc[0]
        text = f"Random patches, dropped where FastV drops its own, reach {accuracy(control, ' %')}."
        lines.append(f"{text} Against them, of what drops inside: {_sides(tested, inside, 'random_inside', few)}.")
    if missing := [name for name, whys in comparison.left_out.items() if str(budget) in whys]:
        lines.append(f"Cannot have this budget: {_listed(missing)}.")
    return "\n  ".join(lines)


def _significance(rows: pd.DataFrame, random: pd.Series, few: bool) -> list[str]:
    first = f"Random patches reach {accuracy(random, ' %')}."
    if few:
        return [first]
    verdicts = [side(row["delta_vs_random"], row["p_vs_random_holm"]) for _, row in rows.iterrows()]
    lines = []
    for sign, name in ((1, "Better than them"), (0, "No difference shown"), (-1, "Worse than them")):
        found = rows[[verdict == sign for verdict in verdicts]]
        shown = (f"{row['method']} ({points(row['delta_vs_random'])})" for _, row in found.iterrows())
        lines.append(f"{name}: {_listed(shown)}.")
    return [first, *lines]


def _tested(
    frames: Mapping[str, pd.DataFrame], pairs: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], tuple[Interval, int]]:
    """Returns the difference of each pair and its verdict, every pair tested once, by p corrected over all of them.

    Random patches stand in no pair: the table has tested them, and has the only verdict.
    """
    pairs = list({frozenset(pair): pair for pair in pairs}.values())
    both = [(frames[one], frames[other]) for one, other in pairs]
    p_values = holm([paired_p(runs_of(a), runs_of(b), a["image_id"]) for a, b in both])
    found = {}
    for (one, other), (a, b), p in zip(pairs, both, p_values, strict=True):
        delta = difference_interval(a["score"], b["score"], a["image_id"])
        found[one, other] = delta, side(delta.mean, p)
        mirrored = difference_interval(b["score"], a["score"], a["image_id"])
        found[other, one] = mirrored, side(mirrored.mean, p)
    return found


def _sides(
    tested: Mapping[tuple[str, str], tuple[Interval, int]], names: Iterable[str], baseline: str, few: bool
) -> str:
    """Returns what is above and below a baseline, and what is not shown to differ; without tests only differences."""
    sides: dict[int, list[str]] = {1: [], 0: [], -1: []}
    for name in names:
        if (name, baseline) in tested:
            delta, verdict = tested[name, baseline]
            sides[verdict].append(f"{name} ({points(delta.mean)} [{points(delta.low)}, {points(delta.high)}])")
    if few:
        return _listed(one for found in sides.values() for one in found)
    words = {1: "above", 0: "no difference shown", -1: "below"}
    return "; ".join(f"{word}: {_listed(sides[sign])}" for sign, word in words.items())


def _too_few(table: pd.DataFrame) -> str:
    tests, seeds = int(table["p_vs_random_holm"].notna().sum()), table.loc[table["method"] == "random", "seeds"]
    return too_few(int(table["images"].iloc[0]), tests, 1 + int(seeds.max())) if tests else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
