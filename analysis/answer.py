"""The answer of a layer ablation in a few sentences that claim no more than Holm's correction allows."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from analysis.ablation import BUDGETLESS, Cell, best_scorer, read_cells, runs_of
from analysis.statistics import difference_interval
from analysis.tables import accuracy, against_random, cost, p_value, percent, points
from analysis.verdicts import holm, paired_p, side, too_few
from foveate.core.errors import DataError


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
    whole, measured = best_scorer(here, "all"), {cell.scorer: cell for cell in cells if cell.keep == keep}
    tested = [(top, best), (top, feature if feature != best else None), (whole, best)]
    differences = _differences([pair for pair in tested if None not in pair], measured, out)
    few = _too_few(table, here)
    sentences = [*([few] if few else []), _best_single(table, rows[best], feature_layer)]
    if feature and feature != best:
        sentences.append(f"Layer {feature_layer}, which writes the features, {_verdict(rows[feature])}.")
    if last and last not in (best, feature):
        sentences.append(f"The last layer, {depth - 1}, {_verdict(rows[last])}.")
    if top:
        others = {"the best single layer": best, f"layer {feature_layer} alone": feature}
        told = [
            f"from {name} by {differences[top, scorer]}"
            for name, scorer in others.items()
            if (top, scorer) in differences and not (scorer == best and name.startswith("layer"))
        ]
        sentences.append(
            f"The best sum, of layers {rows[top]['layers']} ({accuracy(rows[top], ' %')}), differs "
            f"{' and '.join(told)}. Best layer and best sum were picked on these same questions, which flatters "
            "both."
        )
    if whole:
        delta = differences[whole, best]
        sentences.append(
            f"The sum of all layers {_verdict(rows[whole])}; from the best single layer it differs by {delta}."
        )
    return " ".join([*sentences, *_cost(table, best), "Brackets hold 95 % intervals over images; verdicts are by p."])


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
    words = {1: "is significantly better than", -1: "is significantly worse than", 0: "is not shown to differ from"}
    verdict = words[side(row["delta_vs_random"], row["p_vs_random_holm"])]
    told = f"{against_random(row, ' points')}, Holm-corrected {_p(row['p_vs_random_holm'])}"
    return f"{text} {verdict} random patches ({told})"


def _p(value: float) -> str:
    p = p_value(value)
    return f"p {p}" if p.startswith("<") else f"p = {p}"


def _differences(
    pairs: Iterable[tuple[str, str]], measured: Mapping[str, Cell], out: Path
) -> dict[tuple[str, str], str]:
    """Returns the differences of pairs of scorers in words, their p values corrected over these pairs."""
    pairs = list(dict.fromkeys(pairs))
    frames = read_cells({measured[name] for pair in pairs for name in pair}, out) if pairs else {}
    both = [tuple(frames[measured[name]] for name in pair) for pair in pairs]
    p_values = holm([paired_p(runs_of(a), runs_of(b), a["image_id"]) for a, b in both])
    told = {}
    for pair, (a, b), p in zip(pairs, both, p_values, strict=True):
        delta = difference_interval(a["score"], b["score"], a["image_id"])
        shown = "" if side(delta.mean, p) else ", no difference shown"
        told[pair] = f"{points(delta.mean)} points [{points(delta.low)}, {points(delta.high)}] ({_p(p)}{shown})"
    return told


def _too_few(table: pd.DataFrame, here: pd.DataFrame) -> str:
    """Returns that no test can say anything, where that is so."""
    random = table.loc[table["family"] == "random", "seeds"]
    tests = int(table["p_vs_random_holm"].notna().sum())
    return too_few(int(here["images"].iloc[0]), tests, 1 + int(random.max())) if len(random) and tests else ""


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
