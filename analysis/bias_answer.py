"""What a bias measurement says, in sentences that claim no more than the intervals and Holm's correction allow."""

import numpy as np
import pandas as pd

from analysis import verdicts
from analysis.bias import AREAS, SHARES, UNNOTICED
from analysis.signals import EVIDENCE, RANDOM, RESPONSE
from analysis.statistics import Interval
from analysis.tables import p_value, percent, points
from analysis.verdicts import SIGNIFICANT, too_few

_WORDS = {
    "row_correlation": "row correlation",
    "last_rows_share": "share in the last rows",
    "evidence_recall": "evidence in the top",
    "causal_mass": "what the answer hangs on, in the top",
    "insertion_area": "nats lost when only the best patches are left",
    "deletion_area": "nats lost when the best patches go",
}
_WORTH = {"evidence_recall": 1, "causal_mass": 1, "insertion_area": -1, "deletion_area": 1}  # 1: more is better
_NOUNS = {"prompt": "block", "cls sum": "layers", RESPONSE: "blocks"}
_GUIDE = {  # response against random patches, by what the answer hangs on
    1: "So response attention finds more of what the answer hangs on than chance does.",
    0: "So response attention is not shown to find what the answer hangs on: to be near it need not help the answer.",
    -1: "So response attention finds less of what the answer hangs on than chance: to be near it is no merit here.",
}


def number(value: float, measure: str, signed: bool = False) -> str:
    """A value of a measure: shares in %, or in points where it is a difference, others with two decimals."""
    if pd.isna(value):
        return "-"
    if measure in SHARES:
        return points(value) if signed else percent(value)
    digits = 3 if measure in AREAS else 2
    return f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}"


def told(row: pd.Series, measure: str) -> str:
    """A measure of a row of `summary_table`: `45.1 % [40.2, 50.0]`, and its n if that is not the row's."""
    mean, low, high = (number(row[name], measure) for name in (measure, f"{measure}_low", f"{measure}_high"))
    if mean == "-":
        return mean
    few = f" (n = {row[f'{measure}_n']:,})" if row[f"{measure}_n"] < row["n"] else ""
    unit = " %" if measure in SHARES else ""
    return f"{mean}{unit} [{'no interval' if low == '-' else f'{low}, {high}'}]{few}"


def side(row: pd.Series) -> int:
    """Returns 1 where `signal_a` is shown to be above `signal_b`, -1 where below, 0 otherwise."""
    return verdicts.side(row["difference"], row["p_holm"])


def bias_answer(summary: pd.DataFrame, contrasts: pd.DataFrame, unnoticed: Interval) -> str:
    """A paragraph per question that the seed paper's claim raises.

    Args:
        summary: As `summary_table` gives it.
        contrasts: As `contrasts` gives it, of the same questions.
        unnoticed: As `analysis.bias.unnoticed` gives it.
    """
    n, images = summary["n"].max(), summary["images"].max()
    table, tests = contrasts.assign(all=n), int(contrasts["p"].notna().sum())
    parts = [
        f"n = {n:,} questions about {images:,} images unless said otherwise; brackets hold 95 % intervals over images, "
        f"p is of permutations over images, Holm-corrected over the {tests} contrasts. A difference counts as shown "
        f"where p is below {SIGNIFICANT}. Differences of shares are in points; blocks and layers count from 0.",
        too_few(int(images), tests) if tests else "",
        _prompt_and_response(summary, table),
        _cls_and_response(summary, table),
        _place(summary, table),
        _worth(table),
        _response_as_guide(summary, table),
        _hangs_on_little(unnoticed),
    ]
    return "\n\n".join(part for part in parts if part)


def _prompt_and_response(summary: pd.DataFrame, table: pd.DataFrame) -> str:
    rows, control = _rows(summary, "prompt"), _rows(summary, RANDOM)
    if rows.empty:
        return ""
    random = f" (random patches: {told(control.iloc[0], 'overlap_response')})" if len(control) else ""
    against = _pick(table, "prompt", RANDOM, "spearman_response")
    return _lines(
        "How far is prompt attention from response attention?",
        f"Spearman {_range(rows, 'spearman_response')}.",
        f"Overlap of the tops {_range(rows, 'overlap_response')}{random}.",
        _sides("Against random patches, by Spearman", against, ("nearer", "farther"), "a"),
        "The two share rows by construction: the last prompt token is one of those that produce the answer, and the "
        "only one where the answer is a single token. [CLS] attention has no such share in the response.",
    )


def _cls_and_response(summary: pd.DataFrame, table: pd.DataFrame) -> str:
    lines = []
    for _, row in _rows(summary, "cls sum").iterrows():
        near = told(row, "spearman_response"), told(row, "overlap_response")
        lines.append(f"[CLS] summed over layers {row['layers']}: Spearman {near[0]}, overlap {near[1]}.")
        against = _pick(table, "cls sum", "prompt", "spearman_response", row["layers"])
        lines.append(_sides("Against prompt attention, by Spearman", against, ("nearer", "farther")))
        lines.append(_verdict(against, "nearer to the response", "farther from the response", "Spearman"))
    return _lines("How far is [CLS] attention from response attention?", *lines)


def _place(summary: pd.DataFrame, table: pd.DataFrame) -> str:
    lines, prompt = [], _rows(summary, "prompt")
    for row in _whole(summary) if len(prompt) else ():
        lines.append(
            f"Row correlation (above 0: lower rows have more) of the response {told(row, 'row_correlation')}, of "
            f"prompt attention {_range(prompt, 'row_correlation')}; share in the last quarter of the rows "
            f"{told(row, 'last_rows_share')} and {_range(prompt, 'last_rows_share')}."
        )
    words = ("lower in the picture", "higher in the picture")
    for measure in ("row_correlation", "last_rows_share"):
        for first, name in (("prompt", "Prompt attention"), ("cls sum", "Summed [CLS] attention")):
            text = f"{name} against the response, by {_WORDS[measure]}"
            lines.append(_sides(text, _pick(table, first, RESPONSE, measure), words, "a"))
    lines += _against_evidence(summary, table, words)
    lines.append(_acquitted(summary))
    lines += [_explained(table, layers) for layers in _sums(table, "place_part")]
    return _lines("Is the difference one of place?", *lines)


def _against_evidence(summary: pd.DataFrame, table: pd.DataFrame, words: tuple[str, str]) -> list[str]:
    """Whether a signal lies lower or higher than the things that are asked about, which may have places themselves."""
    evidence, lines = _rows(summary, EVIDENCE).dropna(subset="row_correlation"), []
    for _, row in evidence.iterrows():
        correlation, share = told(row, "row_correlation"), told(row, "last_rows_share")
        lines.append(f"Of the evidence, the control: row correlation {correlation}, share in the last rows {share}.")
    for measure in ("row_correlation", "last_rows_share"):
        for first, name in (("prompt", "Prompt attention"), ("cls sum", "Summed [CLS]"), (RESPONSE, "The response")):
            rows = _pick(table, first, EVIDENCE, measure)
            if first == RESPONSE:
                rows = rows[rows["layers_a"].str.contains("-")]
            lines.append(_sides(f"{name} against the evidence, by {_WORDS[measure]}", rows, words, "a"))
    return lines


def _acquitted(summary: pd.DataFrame) -> str:
    """Signals that shuffling the patches of every image does not tell from themselves."""
    tested = summary.dropna(subset="row_correlation_p_null")
    if tested.empty:
        return ""
    same = tested[tested["row_correlation_p_null"] >= SIGNIFICANT].groupby("signal", sort=False)["layers"]
    found = "; ".join(f"{signal} {', '.join(layers)}".strip() for signal, layers in same) or "no signal"
    return (
        f"With the patches of every image shuffled, a row correlation as large as the own one is no rarity (p at least "
        f"{SIGNIFICANT}) for {found}: that acquits. A smaller p alone shows no bias, because attention falls on "
        "things, which are larger than a patch."
    )


def _explained(table: pd.DataFrame, layers: str) -> str:
    """What becomes of the difference in Spearman when every signal's mean map is taken away."""
    raw, rest, part = (
        _pick(table, "cls sum", "prompt", measure, layers).set_index("layers_b")
        for measure in ("spearman_response", "placeless_spearman", "place_part")
    )
    found: dict[str, list[str]] = {}
    for block in part.index:
        sign, left, change = (side(rows.loc[block]) for rows in (raw, rest, part))
        if not sign:
            continue  # there is no difference to explain
        if left == -sign:
            word = "turned round"
        elif change == sign:
            word = "smaller, but still there" if left == sign else "smaller, and no longer shown"
        else:
            word = "larger" if change == -sign else "not shown to change"
        before = number(raw["difference"].loc[block], "spearman_response", True)
        changed = p_value(part["p_holm"].loc[block])
        found.setdefault(word, []).append(
            f"{block} ({before} becomes {_interval(rest.loc[block])}, p of the change {changed})"
        )
    told_sides = "; ".join(f"{word} at block {', '.join(some)}" for word, some in found.items())
    if not found:
        return f"[CLS] {layers} and prompt attention are not shown to differ in Spearman: place has nothing to explain."
    return (
        "Without mean maps (what a signal looks at whatever the question and the picture), the difference in Spearman "
        f"between [CLS] {layers} and prompt attention is {told_sides}."
    )


def _worth(table: pd.DataFrame) -> str:
    lines = []
    for layers in _sums(table):
        rows = {measure: _pick(table, "cls sum", "prompt", measure, layers) for measure in _WORTH}
        lines += [_better(f"[CLS] {layers} against prompt attention", rows[measure], measure) for measure in _WORTH]
        lines.append(_verdict(rows["causal_mass"], "a better guide", "a worse guide", "what the answer hangs on"))
    return _lines("Does it matter for the answer?", *lines)


def _response_as_guide(summary: pd.DataFrame, table: pd.DataFrame) -> str:
    lines = []
    for row in _whole(summary):
        lines.append(
            f"Response attention, mean over blocks: its top has {told(row, 'causal_mass')} of what the answer hangs "
            f"on, its Spearman with that is {told(row, 'causal_spearman')}, and its favourite region is the one that "
            f"matters most for {told(row, 'causal_hit')} of the questions."
        )
        rows = {measure: _pick(table, RESPONSE, RANDOM, measure, row["layers"]) for measure in _WORTH}
        lines += [_better("It against random patches", rows[measure], measure, "a") for measure in _WORTH]
        for first, name in (("prompt", "Prompt attention"), ("cls sum", "Summed [CLS]")):
            pairs = ((measure, _pick(table, first, RESPONSE, measure)) for measure in _WORTH)
            lines += [_better(f"{name} against it", pair, measure, "a") for measure, pair in pairs]
        sides = [side(one) for _, one in rows["causal_mass"].iterrows()]
        if sides:
            lines.append(_GUIDE[sides[0]])
    return _lines("Is response attention itself a good guide?", *lines)


def _hangs_on_little(unnoticed: Interval) -> str:
    if not unnoticed.n:
        return ""
    share, low, high = map(percent, unnoticed[:3])
    return _lines(
        "On how much of the picture does the answer hang?",
        f"Of the blocks of patches, taken away one at a time, {share} % [{low}, {high}] (n = {unnoticed.n:,}) cost the "
        f"answer less than {UNNOTICED} nats.",
    )


def _verdict(rows: pd.DataFrame, better: str, worse: str, by: str) -> str:
    """Over all prompt blocks, in one sentence."""
    sides = [side(row) for _, row in rows.iterrows()]
    up, down = sum(one > 0 for one in sides), sum(one < 0 for one in sides)
    if not sides:
        return ""
    if not up and not down:
        return f"So, by {by}, it is shown to be neither {better} than prompt attention nor {worse}."
    if len(sides) in (up, down):
        return f"So, by {by}, it is {better if up else worse} than prompt attention of every block."
    counts = {f"{better} than": up, f"{worse} than": down, "not shown to differ from": len(sides) - up - down}
    text = ", ".join(f"{word} {count}" for word, count in counts.items() if count)
    return f"So, by {by}, it depends on the block that prompt attention is of: {text}, of {len(sides)} blocks."


def _better(text: str, rows: pd.DataFrame, measure: str, named: str = "b") -> str:
    words = ("better", "worse") if _WORTH[measure] > 0 else ("worse", "better")
    return _sides(f"{text}, by {_WORDS[measure]}", rows, words, named)


def _sides(text: str, rows: pd.DataFrame, words: tuple[str, str], named: str = "b") -> str:
    """Where `signal_a` is surely above, surely below, and neither; empty if nothing was compared."""
    if rows.empty:
        return ""
    noun, sides = _NOUNS[rows.iloc[0][f"signal_{named}"]], np.array([side(row) for _, row in rows.iterrows()])
    told_sides = [
        f"{word} at {noun} {_places(rows[sides == sign], f'layers_{named}', bool(sign))}"
        for sign, word in ((1, words[0]), (-1, words[1]), (0, "not shown to differ"))
        if (sides == sign).any()
    ]
    return f"{text}: {'; '.join(told_sides)}."


def _places(rows: pd.DataFrame, column: str, shown: bool) -> str:
    """Two contrasts one by one; of more the least and the greatest difference, and the p that says least."""
    if len(rows) < 3:
        each = ((row[column], _interval(row), p_value(row["p_holm"]), row) for _, row in rows.iterrows())
        return ", ".join(f"{place} ({difference}, p {p}{_few(row)})" for place, difference, p, row in each)
    order = rows.sort_values("difference", kind="stable")
    ends = " to ".join(f"{_interval(row)} at {row[column]}" for _, row in order.iloc[[0, -1]].iterrows())
    p = p_value(rows["p_holm"].max() if shown else rows["p_holm"].min())
    limit = f"all p {p}" if p.startswith("<") else f"p at {'most' if shown else 'least'} {p}"
    return f"{', '.join(rows[column])} (from {ends}; {limit}{_few(order.iloc[0])})"


def _interval(row: pd.Series) -> str:
    """The difference of a contrast with its interval."""
    middle, low, high = (number(row[name], row["measure"], True) for name in ("difference", "low", "high"))
    return f"{middle} [{'no interval' if low == '-' else f'{low}, {high}'}]"


def _few(row: pd.Series) -> str:
    """The n of a contrast that not all questions are part of."""
    return f", n = {row['n']:,}" if row["n"] < row["all"] else ""


def _range(rows: pd.DataFrame, measure: str) -> str:
    """The least and the most over blocks."""
    known = rows.dropna(subset=measure).sort_values(measure, kind="stable")
    if known.empty:
        return "not known"
    ends = [f"{told(known.iloc[i], measure)} (block {known.iloc[i]['layers']})" for i in (0, -1)]
    return ends[0] if len(known) == 1 else f"from {ends[0]} to {ends[1]}"


def _rows(summary: pd.DataFrame, signal: str) -> pd.DataFrame:
    return summary[summary["signal"] == signal]


def _whole(summary: pd.DataFrame) -> list[pd.Series]:
    """The response over all blocks, if it was measured."""
    rows = _rows(summary, RESPONSE)
    return [row for _, row in rows[rows["layers"].str.contains("-")].iterrows()]


def _pick(table: pd.DataFrame, first: str, second: str, measure: str, layers: str | None = None) -> pd.DataFrame:
    pair = (table["signal_a"] == first) & (table["signal_b"] == second) & (table["measure"] == measure)
    return table[pair if layers is None else pair & (table["layers_a"] == layers)]


def _sums(table: pd.DataFrame, measure: str | None = None) -> list[str]:
    """Layers of the [CLS] sums that were compared with prompt attention, by this measure or any."""
    pair = (table["signal_a"] == "cls sum") & (table["signal_b"] == "prompt")
    return list(dict.fromkeys(table.loc[pair if measure is None else pair & (table["measure"] == measure), "layers_a"]))


def _lines(title: str, *lines: str) -> str:
    told_lines = [line for line in lines if line]
    return "\n  ".join([title, *told_lines]) if told_lines else ""
