"""The answer of a layer ablation in a few sentences that claim no more than the intervals allow."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from analysis.ablation import BUDGETLESS, Cell, best_scorer, read_cells
from analysis.statistics import difference_interval
from analysis.tables import accuracy, against_random, cost, p_value, percent, points
from foveate.core.errors import DataError

SIGNIFICANT = 0.05


def answer_sentence(table: pd.DataFrame, cells: Iterable[Cell], out: Path, *, feature_layer: int, depth: int) -> str:
    """What the table says at its second smallest budget, and what the smallest and the 25 % budget cost.

    Args:
        table: As `ablation_table` gives it.
        cells: The cells of that table.
        out: Folder that holds `records/`, for the paired difference between sums and single layers.
        feature_layer: The layer that writes the features.
        depth: Number of layers of the vision tower.
    """
    keep = reference_budget(table)
    here = table[(table["keep"] == keep) & ~table["family"].isin(BUDGETLESS)]
    best, top = best_scorer(here, "single"), best_scorer(here, "suffix")
    if best is None:
        return f"At {keep} patches no single layer was measured."
    rows = {str(row["scorer"]): row for _, row in here.iterrows()}
    layers = {str(row["layers"]): scorer for scorer, row in rows.items() if row["family"] == "single"}
    feature, last = layers.get(str(feature_layer)), layers.get(str(depth - 1))
    sentences = [_best_single(table, rows[best], feature_layer)]
    if feature and feature != best:
        sentences.append(f"Layer {feature_layer}, which writes the features, {_verdict(rows[feature])}.")
    if last and last not in (best, feature):
        sentences.append(f"The last layer, {depth - 1}, {_verdict(rows[last])}.")
    measured = {cell.scorer: cell for cell in cells if cell.keep == keep}
    if top:
        others = {"the best single layer": best, f"layer {feature_layer} alone": feature if feature != best else None}
        differences = [
            f"from {name} by {_difference(measured[top], measured[scorer], out)}"
            for name, scorer in others.items()
            if scorer
        ]
        sentences.append(
            f"The best sum, of layers {rows[top]['layers']} ({accuracy(rows[top], ' %')}), differs "
            f"{' and '.join(differences)}. Best layer and best sum were picked on these same questions, which flatters "
            "both."
        )
    if whole := best_scorer(here, "all"):
        delta = _difference(measured[whole], measured[best], out)
        sentences.append(
            f"The sum of all layers {_verdict(rows[whole])}; from the best single layer it differs by {delta}."
        )
    return " ".join([*sentences, *_cost(table, best), "Brackets hold 95 % intervals over images."])


def reference_budget(table: pd.DataFrame) -> int:
    """The second smallest budget of a table, or the only one: tight enough to tell scorers apart, not hopeless."""
    keeps = _budgets(table)
    if not keeps:
        raise DataError("the study has no row but `full`: a report needs a budget at which patches were dropped")
    return keeps[min(1, len(keeps) - 1)]


def _best_single(table: pd.DataFrame, best: pd.Series, feature_layer: int) -> str:
    full = _full(table)
    budget = f"{best['keep']} patches" if full is None else f"{best['keep']} of {full['keep']} patches"
    role = ", which writes the features" if best["layers"] == str(feature_layer) else ""
    sample = f"n = {best['n']:,} questions about {best['images']:,} images"
    return f"At {budget} ({sample}) the best single layer is {best['layers']}{role}: it {_verdict(best)}."


def _verdict(row: pd.Series) -> str:
    text = f"reaches {accuracy(row, ' %')} and"
    if pd.isna(row["p_vs_random_holm"]):
        return f"{text} was not compared with random patches"
    verdict = "cannot be told from random patches"
    if row["p_vs_random_holm"] < SIGNIFICANT:
        verdict = f"is significantly {'better' if row['delta_vs_random'] > 0 else 'worse'} than random patches"
    p = p_value(row["p_vs_random_holm"])
    p = p if p.startswith("<") else f"= {p}"
    return f"{text} {verdict} ({against_random(row, ' points')}, Holm-corrected p {p})"


def _difference(cell: Cell, baseline: Cell, out: Path) -> str:
    frames = read_cells([cell, baseline], out)
    delta = difference_interval(frames[cell]["score"], frames[baseline]["score"], frames[cell]["image_id"])
    unclear = " (not distinguishable)" if delta.low <= 0 <= delta.high else ""
    return f"{points(delta.mean)} points [{points(delta.low)}, {points(delta.high)}]{unclear}"


def _cost(table: pd.DataFrame, scorer: str) -> list[str]:
    """What the budget nearest to 25 % and the smallest one cost with a scorer: a sentence, or none without `full`."""
    full, keeps = _full(table), _budgets(table)
    if full is None:
        return []
    patches = int(full["keep"])
    quarter = min(keeps, key=lambda keep: abs(keep - patches / 4))
    rows = {row["keep"]: row for _, row in table[table["scorer"] == scorer].iterrows()}
    costs = [
        f"keeping {keep} patches ({percent(keep / patches)} %) costs {cost(rows[keep])}"
        for keep in dict.fromkeys([quarter, keeps[0]])
        if keep in rows
    ]
    layer = next(iter(rows.values()))["layers"]
    return [f"With layer {layer}, {' and '.join(costs)} of the {accuracy(full, ' %')} with all {patches} patches."]


def _budgets(table: pd.DataFrame) -> list[int]:
    return sorted(int(keep) for keep in table.loc[~table["family"].isin(BUDGETLESS), "keep"].unique())


def _full(table: pd.DataFrame) -> pd.Series | None:
    rows = table[table["family"] == "full"]
    return None if rows.empty else rows.iloc[0]
