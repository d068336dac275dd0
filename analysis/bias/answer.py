"""The findings of a bias measurement: verdicts as tables, and a few sentences that claim no more than they allow."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis import verdicts
from analysis.bias.contrasts import LEANS, SUM, WORTHS
from analysis.bias.data import LEAST_TOKENS, WORTH
from analysis.bias.measures import AREAS, NEAR, PERCENT
from analysis.bias.signals import ANSWER, EVIDENCE, PROMPTS, RANDOM, RESPONSE, RESPONSES
from analysis.tables import grid, p_value, percent, points
from analysis.verdicts import SIGNIFICANT, too_few

MEASURE_NAMES = {
    "spearman_response": "Spearman with the response",
    "overlap_response": "top shared with the response",
    "spearman_answer": "Spearman with the answer's own tokens",
    "overlap_answer": "top shared with the answer's own tokens",
    "placeless_spearman": "Spearman with the response, mean maps taken away",
    "evidence_recall": "evidence in the top",
    "block_share": "worth in the top, block taken away",
    "thinned_share": "worth in the top, block in thinned context",
    "thing_share": "worth in the top, needed thing taken away",
    "insertion_area": "nats lost, only the best left",
    "deletion_area": "nats lost, the best taken away",
    "row_correlation": "row correlation",
    "last_rows_share": "share in the last rows",
}
PROMPT_NAMES = {"prompt": "the last prompt token", "question": "the question tokens"}
RESPONSE_NAMES = {RESPONSE: "the rows that produce the answer", ANSWER: "the rows of the answer's own tokens"}
_JUDGE_NAMES = {
    "block": "a block of patches taken away",
    "thinned": "a block in thinned context (Shapley-type)",
    "thing": "all patches of one needed thing taken away",
}
_SHORT = {SUM: "[CLS] sum", "prompt": "last prompt token", "question": "question tokens", ANSWER: "own tokens"}
_BETTER_IS_LESS = ("insertion_area",)


def number(value: float, measure: str, signed: bool = False) -> str:
    """Returns a value of a measure: shares in %, or in points where it is a difference, others with two decimals."""
    if pd.isna(value):
        return "-"
    if measure in PERCENT:
        return points(value) if signed else percent(value)
    digits = 3 if measure in AREAS else 2
    return f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}"


def told(row: pd.Series, measure: str) -> str:
    """Returns a measure of a row of `summary_table`: `45.1 % [40.2, 50.0]`, and its n if that is not the row's."""
    mean, low, high = (number(row[name], measure) for name in (measure, f"{measure}_low", f"{measure}_high"))
    if mean == "-":
        return mean
    few = f" (n = {row[f'{measure}_n']:,.0f})" if row[f"{measure}_n"] < row["n"] else ""
    unit = " %" if measure in PERCENT else ""
    return f"{mean}{unit} [{'no interval' if low == '-' else f'{low}, {high}'}]{few}"


def side(row: pd.Series) -> int:
    """Returns 1 where `signal_a` is shown to be above `signal_b`, -1 where below, 0 otherwise."""
    return verdicts.side(row["difference"], row["p_holm"])


def bias_answer(frame: pd.DataFrame, summary: pd.DataFrame, contrasts: pd.DataFrame, judges: pd.DataFrame) -> str:
    """Returns what the measurement says of the seed paper's claim, in the order of its steps.

    Args:
        frame: As `analysis.bias.data.signal_frame` gives it.
        summary: As `summary_table` gives it, of the `headline` of that frame.
        contrasts: As `contrasts` gives it, of the same.
        judges: As `judges_table` gives it.
    """
    n, images, tests = summary["n"].max(), summary["images"].max(), int(contrasts["p"].notna().sum())
    intro = (
        f"n = {n:,} questions about {images:,} images unless said otherwise; brackets hold 95 % intervals over images. "
        f"Differences are paired; a verdict is a permutation p over images below {SIGNIFICANT}, Holm-corrected over "
        f"the {tests} contrasts of contrasts.csv. Differences of shares are in points; blocks and layers count from 0."
    )
    runs = 1 + frame.loc[frame["signal"] == RANDOM, "layers"].nunique()
    if few := too_few(int(images), tests, max(2, runs)):
        return f"{intro}\n\n{few}"
    parts = [
        intro,
        _circular(frame),
        _section("Which prompt, and which response? Summed [CLS] against prompt attention", _order(contrasts)),
        _section("What is it worth to the answer?", _worth(contrasts), _found(judges)),
        _section("Does a signal lie lower or higher than the evidence?", _lean(contrasts), _acquitted(summary)),
    ]
    return "\n\n".join(part for part in parts if part)


class Order(NamedTuple):
    """At how many of so many single blocks the [CLS] sum is shown to be nearer and farther, and by the mean of all."""

    nearer: int
    farther: int
    blocks: int
    mean: int | None

    def __str__(self) -> str:
        sides = [f"{word} at {count}" for word, count in (("nearer", self.nearer), ("farther", self.farther)) if count]
        single = f"{' and '.join(sides) or 'not shown at any'} of {self.blocks} blocks"
        words = {1: "nearer", -1: "farther", 0: "not shown"}
        return single if self.mean is None else f"{single}, by their mean {words[self.mean]}"


def paper_order(contrasts: pd.DataFrame) -> dict[tuple[str, str, str], Order]:
    """Returns where summed [CLS] attention is nearer to the response than prompt attention, as the paper says.

    Returns:
        An order by response, prompt and layers of the sum.

    Args:
        contrasts: As `analysis.bias.contrasts.contrasts` gives it.
    """
    found = {}
    for response in RESPONSES:
        for prompt in PROMPTS:
            rows = _pick(contrasts, SUM, prompt, NEAR[response][0])
            for layers, some in rows.groupby("layers_a", sort=False):
                sides = {str(row["layers_b"]): side(row) for _, row in some.iterrows()}
                single = [one for block, one in sides.items() if "-" not in block]
                mean = next((one for block, one in sides.items() if "-" in block), None)
                order = Order(single.count(1), single.count(-1), len(single), mean)
                found[response, prompt, str(layers)] = order
    return found


def finding(contrasts: pd.DataFrame) -> str:
    """Returns in a few words where the sum of all [CLS] layers stands against both prompts."""
    order = paper_order(contrasts)
    sums = [layers for response, _, layers in order if response == RESPONSE]
    if not sums:
        return "What each signal knows, by layer"
    told_sides = []
    for prompt in PROMPTS:
        if found := order.get((RESPONSE, prompt, sums[0])):
            sides = [f"{word} at {n}" for word, n in (("nearer", found.nearer), ("farther", found.farther)) if n]
            told_sides.append(
                f"{' and '.join(sides) or 'not shown at any'} of {found.blocks} blocks than {_SHORT[prompt]}"
            )
    return f"[CLS] sum to response: {', '.join(told_sides)}"


def _circular(frame: pd.DataFrame) -> str:
    """Returns how many answers the last prompt token produces alone, and what Spearman says of them."""
    tokens = frame.drop_duplicates("sample_id")["answer_tokens"]
    single, several = int((tokens == 1).sum()), int((tokens >= LEAST_TOKENS).sum())
    mean = frame[(frame["signal"] == "prompt") & frame["layers"].str.contains("-") & (frame["answer_tokens"] == 1)]
    near = number(mean["spearman_response"].mean(), "spearman_response")
    said = f"Of {len(tokens):,} answers {single:,} have one token"
    said += f", where the response is the row of the last prompt token (Spearman {near})" if single else ""
    if not several:
        return f"{said}. None has at least {LEAST_TOKENS}, so nothing is said of nearness to the response."
    return (
        f"{said}. Whatever speaks of the response is therefore about the {several:,} answers of at least "
        f"{LEAST_TOKENS} tokens. Two definitions of it: the rows that produce the answer, of which the last prompt "
        "token is one, and the rows of the answer's own tokens only."
    )


def _order(contrasts: pd.DataFrame) -> str:
    """Returns a row per sum and prompt, with the blocks at which it is nearer and farther, and the order."""
    measures = [measure for response in RESPONSES for measure in NEAR[response]] + ["placeless_spearman"]
    rows = []
    for prompt in PROMPTS:
        for layers in _layers(contrasts, SUM, prompt):
            row = {"[CLS] sum": layers, "against": _SHORT[prompt]}
            for measure in measures:
                some = _pick(contrasts, SUM, prompt, measure)
                row[MEASURE_NAMES[measure]] = _cell(some[some["layers_a"] == layers], ("nearer", "farther"))
            rows.append(row)
    if not rows:
        return ""
    lines = []
    for response in RESPONSES:
        order = [(key[1:], found) for key, found in paper_order(contrasts).items() if key[0] == response]
        sides = [f"{layers} against {PROMPT_NAMES[prompt]}: {found}" for (prompt, layers), found in order]
        lines += [f"By Spearman with {RESPONSE_NAMES[response]}, layers {'; layers '.join(sides)}."] if sides else []
    lines.append("Nearer is the order of the paper, farther its reverse.")
    return "\n\n".join(part for part in (_grid(rows, 2), "\n".join(lines)) if part)


def _worth(contrasts: pd.DataFrame) -> str:
    """Returns a row per pair of signals: at which layers the first is worth more to the answer than the second."""
    pairs = [(SUM, prompt) for prompt in PROMPTS]
    pairs += [(name, RANDOM) for name in (SUM, *PROMPTS, RESPONSE, ANSWER)]
    rows = []
    for first, second in pairs:
        for layers in _layers(contrasts, first, second) if first == SUM and second != RANDOM else [""]:
            row = {"signal": f"{_SHORT.get(first, first)} {layers}".strip(), "against": _SHORT.get(second, second)}
            for measure in WORTHS:
                some = _pick(contrasts, first, second, measure)
                some = some[some["layers_a"] == layers] if layers else some
                words = ("worse", "better") if measure in _BETTER_IS_LESS else ("better", "worse")
                row[MEASURE_NAMES[measure]] = _cell(some, words, "b" if layers else "a")
            rows.append(row)
    return _grid(rows, 2)


def _found(judges: pd.DataFrame) -> str:
    """Returns how often each judge finds anything at all."""
    rows = [
        {
            "judge": _JUDGE_NAMES[row["judge"]],
            f"questions with something worth {WORTH} nats, %": f"{percent(row['share'])} [{percent(row['low'])}, "
            f"{percent(row['high'])}]",
            "nats in all, per question": f"{row['nats']:.2f} [{row['nats_low']:.2f}, {row['nats_high']:.2f}]",
            "n": f"{row['n']:,}",
        }
        for _, row in judges[judges["n"] > 0].iterrows()
    ]
    return grid(rows) if rows else ""


def _lean(contrasts: pd.DataFrame) -> str:
    """Returns a row per signal: at which layers it lies lower or higher than the things that are asked about."""
    rows = []
    for name in (SUM, *PROMPTS, *RESPONSES):
        cells = {
            MEASURE_NAMES[measure]: _cell(_pick(contrasts, name, EVIDENCE, measure), ("lower", "higher"), "a")
            for measure in LEANS
        }
        rows.append({"signal": _SHORT.get(name, name), **cells})
    return _grid(rows, 1)


def _acquitted(summary: pd.DataFrame) -> str:
    """Signals that shuffling the patches of every image does not tell from themselves."""
    tested = summary.dropna(subset="row_correlation_p_null")
    same = tested[tested["row_correlation_p_null"] >= SIGNIFICANT].groupby("signal", sort=False)["layers"]
    found = "; ".join(f"{signal} {', '.join(layers)}".strip() for signal, layers in same) or "no signal"
    return "" if tested.empty else f"Shuffled patches (p at least {SIGNIFICANT}) acquit of a bias of place: {found}."


def _grid(rows: list[dict[str, str]], names: int) -> str:
    """Returns the rows as a table, without rows and columns in which nothing was compared; empty if nothing was.

    Args:
        rows: With the same keys.
        names: How many columns at the left name a row.
    """
    known = [row for row in rows if any(cell != "-" for cell in list(row.values())[names:])]
    if not known:
        return ""
    columns = list(known[0])
    columns = columns[:names] + [name for name in columns[names:] if any(row[name] != "-" for row in known)]
    return grid([{name: row[name] for name in columns} for row in known])


def _cell(rows: pd.DataFrame, words: tuple[str, str], named: str = "b") -> str:
    """Returns where `signal_a` is shown to be above, below and neither, with the least and the greatest difference."""
    rows = rows.dropna(subset="difference")
    if rows.empty:
        return "-"
    sides, column = np.array([side(row) for _, row in rows.iterrows()]), f"layers_{named}"
    parts = []
    for sign, word in ((1, words[0]), (-1, words[1]), (0, "not shown")):
        some = rows[sides == sign].sort_values("difference", kind="stable")
        if len(some):
            ends = some.iloc[[0, -1]] if len(some) > 1 else some
            differences = " to ".join(dict.fromkeys(_interval(row) for _, row in ends.iterrows()))
            places = ", ".join(layers for layers in rows[column] if layers in set(some[column]))
            parts.append(f"{word}{f' at {places}' if places else ''} ({differences}{_few(some, rows)})")
    return "; ".join(parts)


def _interval(row: pd.Series) -> str:
    """Returns the difference of a contrast with its interval."""
    middle, low, high = (number(row[name], row["measure"], True) for name in ("difference", "low", "high"))
    return f"{middle} [{'no interval' if low == '-' else f'{low}, {high}'}]"


def _few(some: pd.DataFrame, rows: pd.DataFrame) -> str:
    p = some["p_holm"].max()
    return f"; p {p_value(p)}, n = {rows['n'].max():,}"


def _pick(table: pd.DataFrame, first: str, second: str, measure: str) -> pd.DataFrame:
    return table[(table["signal_a"] == first) & (table["signal_b"] == second) & (table["measure"] == measure)]


def _layers(table: pd.DataFrame, first: str, second: str) -> Sequence[str]:
    rows = table[(table["signal_a"] == first) & (table["signal_b"] == second)]
    return list(dict.fromkeys(rows["layers_a"]))


def _section(title: str, *parts: str) -> str:
    said = [part for part in parts if part]
    return "\n\n".join([f"### {title}", *said]) if said else ""
