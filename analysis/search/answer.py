"""What a search says, in sentences that claim no more than the intervals and Holm's correction allow."""

import optuna
import pandas as pd

from analysis.ablation.data import PIXEL_FILTERS
from analysis.search.confirmed import FOUND
from analysis.search.data import Importance, Proxy
from analysis.tables import between, p_value, percent, points
from analysis.verdicts import SIGNIFICANT, side, too_few

RIVALS = (*PIXEL_FILTERS, "best single layer", "uniform ensemble", "published default", "random")


def verdict(table: pd.DataFrame) -> str:
    """Whether the search found something better than what needs no search, at every budget and in one sentence.

    Args:
        table: As `confirmed_table` gives it.
    """
    tests = int(table["p_holm"].notna().sum())
    if tests and (few := too_few(int(table["images"].iloc[0]), tests, 1 + int(table["seeds"].max()))):
        return few
    rivals = {name: [row for _, row in table[table["scorer"] == name].iterrows()] for name in RIVALS}
    one = table.loc[table["winner_gains"].notna(), "keep"].nunique() == 1
    sentences = [_at_one_budget(rows[0]) if one else _at_all_budgets(rows) for rows in rivals.values() if rows]
    sides = [[_side(row) for row in rivals[name]] for name in ("best single layer", "uniform ensemble")]
    return "\n".join([*sentences, _answer(*sides)])


def kept_to(limit: float | None, table: pd.DataFrame) -> str:
    """Whether a constraint on points of accuracy holds on unseen questions."""
    if limit is None:
        return ""
    lines = []
    for _, row in table[table["family"] == "winner"].iterrows():
        delta = between(row, ("delta_vs_full", "delta_ci_low", "delta_ci_high"), " points")
        least, most = -100 * row["delta_ci_high"], -100 * row["delta_ci_low"]
        word = "within" if most <= limit else "beyond" if least > limit else "not shown to be within"
        lines.append(
            f"On unseen questions the {row['scorer']} differs from the uncompressed model by {delta}: {word} the "
            f"{limit:g} points that may be lost."
        )
    return "\n".join(lines)


def flattered(table: pd.DataFrame) -> str:
    """How much the searched split flattered what was found on it."""
    rows = table[table["scorer"].str.startswith(FOUND) & table["optimism"].notna()]
    if len(rows) > 1:
        low, middle, high = (points(float(rows["optimism"].quantile(share))) for share in (0, 0.5, 1))
        return (
            f"Optimism of the {len(rows)} members of the front (searched split minus unseen questions): median "
            f"{middle} points, from {low} to {high}; intervals in the table."
        )
    told = [between(row, ("optimism", "optimism_low", "optimism_high"), " points") for _, row in rows.iterrows()]
    return "".join(f"Optimism of the winner (searched split minus unseen questions): {one}." for one in told)


def foretold(study: optuna.Study, proxy: Proxy | None) -> str:
    """What the proxy was worth."""
    facts = study.user_attrs.get("proxy")
    if not facts:
        return ""
    if proxy is None:
        return f"No proxy: {facts.get('why', 'too few of its trials were evaluated')}."
    parts = [f"Proxy: agreement with {facts['kind']} ranks accuracy with rho {_correlated(proxy, 'agreement')}"]
    parts.append(f"log-probability with rho {_correlated(proxy, 'agreement', 'quality')}")
    if ("evidence_recall", "accuracy") in proxy.correlations:
        parts.append(f"kept evidence ranks accuracy with rho {_correlated(proxy, 'evidence_recall')}")
    rho = proxy.correlations["agreement", "accuracy"]
    word = "foretells" if rho.p < SIGNIFICANT and rho.value > 0 else "is not shown to foretell"
    budgets = proxy.trials["tokens"].nunique() > 1
    but = " They differ in budget, and more tokens raise both, which flatters the proxy." if budgets else ""
    return (
        f"{'; '.join(parts)}; over {rho.n} proposals from all over its ranking, searched split. "
        f"It {word} accuracy.{but}"
    )


def mattered(importances: list[Importance]) -> str:
    """What the trials say of every dimension."""
    lines = []
    for one in importances:
        shares = ", ".join(
            f"{name} {percent(share)} %" + (f" (in {one.rests[name]})" if one.rests[name] < one.trials else "")
            for name, share in list(one.shares.items())[:5]
        )
        text = f"{shares} ({one.why})" if shares and one.why else shares or f"not told, {one.why or 'none stands out'}"
        lines.append(f"Importance for {one.goal} over {one.trials} trials: {text}.")
    return "\n".join(lines)


def _at_one_budget(row: pd.Series) -> str:
    if _same(row):
        return f"At {row['keep']} tokens the winner is the {row['scorer']}."
    word = {1: "better than", -1: "worse than", 0: "not shown to differ from"}[_side(row)]
    gain = between(row, ("winner_gains", "gain_low", "gain_high"), " points")
    size = f"p {p_value(row['p_holm'])}, n = {row['n']:,}"
    return f"At {row['keep']} tokens the winner is {word} {_named(row)}: {gain}, {size}."


def _at_all_budgets(rows: list[pd.Series]) -> str:
    """Points with intervals where a difference is shown; the others stand in the table."""
    gained = ("winner_gains", "gain_low", "gain_high")
    told = {
        "better at": [f"{row['keep']} ({between(row, gained)})" for row in rows if _side(row) > 0],
        "worse at": [f"{row['keep']} ({between(row, gained)})" for row in rows if _side(row) < 0],
        "not shown to differ at": [str(row["keep"]) for row in rows if not _side(row) and not _same(row)],
        "the same compressor at": [str(row["keep"]) for row in rows if _same(row)],
    }
    sides = "; ".join(f"{word} {', '.join(found)} tokens" for word, found in told.items() if found)
    return f"Against {_named(rows[0])} the winner is {sides} (Holm-corrected, n = {rows[0]['n']:,})."


def _named(row: pd.Series) -> str:
    if row["scorer"] in PIXEL_FILTERS:
        return f"{row['scorer']} of pixels, without a network"
    return f"random patches ({row['seeds']} seeds)" if row["scorer"] == "random" else f"the {row['scorer']}"


def _same(row: pd.Series) -> bool:
    """Whether the winner is this row's compressor."""
    return row["winner_gains"] == 0 and pd.isna(row["p_holm"])


def _side(row: pd.Series) -> int:
    """1 where the winner is shown to be better than the row, -1 where it is shown to be worse."""
    return side(row["winner_gains"], row["p_holm"])


def _answer(single: list[int], ensemble: list[int]) -> str:
    """The verdict against the best single layer and against equal weights; one side per budget."""
    if not single:
        return "Whether the search beats a single layer is not known: none was evaluated in full."
    beats, beats_equal = (sum(side > 0 for side in sides) for sides in (single, ensemble))
    text = "something better than the best single layer on questions it never saw"
    if len(single) > 1:
        equal = f", and at {beats_equal} better than equal weights, which need no search" if ensemble else ""
        return f"At {beats} of {len(single)} budgets the search found {text}{equal}."
    if not beats:
        return f"The search did not find {text}."
    equal = f"{'It is better' if beats_equal else 'It is not shown to be better'} than equal weights"
    return f"The search found {text}." + (f" {equal}, which need no search." if ensemble else "")


def _correlated(proxy: Proxy, signal: str, measure: str = "accuracy") -> str:
    value, low, high, p, _ = proxy.correlations[signal, measure]
    if pd.isna(value):
        return "undefined, because one of the two is the same for all"
    return f"{value:.2f} [{low:.2f}, {high:.2f}], p {p_value(p)}"
