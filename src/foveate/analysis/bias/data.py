"""Data of a bias measurement: measures of every signal, their contrasts, and the accuracy of corrected attention."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from foveate.analysis.bias.measurement import curve_areas, curve_frame, means, placeless
from foveate.analysis.bias.measures import (
    ANSWER,
    EVIDENCE,
    JUDGES,
    LEANS,
    MEASURED,
    MEASURES,
    NEAR,
    OF_BLOCKS,
    ORDER,
    PLACELESS,
    PROMPTS,
    RANDOM,
    RANGES,
    RATIOS,
    RESPONSE,
    RESPONSES,
    ROW,
    SUM,
    WITH_RESPONSE,
    WORTHS,
    Key,
    interval_in,
    is_whole,
    key_order,
    named,
    one_random,
    ordered,
)
from foveate.analysis.records import read_records
from foveate.analysis.statistics import Interval, difference_interval, mean_interval, ratio_interval
from foveate.analysis.verdicts import holm, paired_p
from foveate.bias.tables import SAMPLES, TableFolder
from foveate.core.progress import bar
from foveate.studies.corrections import PLAIN, Corrected

LEAST_TOKENS = 3  # tokens of an answer with at least two rows besides that of the last prompt token
WORTH = 0.05  # nats: smaller losses mean that the removed patches hardly matter
_NEAR = (*NEAR[RESPONSE], *NEAR[ANSWER])
_CONTRASTS = (  # signals that are compared, by which measures; of the response only the mean over blocks
    *((SUM, prompt, (*_NEAR, *PLACELESS, *WORTHS)) for prompt in PROMPTS),
    *((name, target, (*LEANS, *WORTHS)) for name in (SUM, *PROMPTS) for target in RESPONSES),
    *((name, RANDOM, _NEAR) for name in (SUM, *PROMPTS)),
    *((name, EVIDENCE, LEANS) for name in (SUM, *PROMPTS, *RESPONSES)),  # evidence may itself lie low or high
    *((name, RANDOM, WORTHS) for name in ORDER if name != RANDOM),
)


def signal_frame(folder: TableFolder) -> pd.DataFrame:
    """Returns every measure of the mean over heads, one row per question, signal and layers, with kind and length.

    Derived measures: Spearman with the response after both mean maps are subtracted (`placeless_spearman`), the
    decrease by this (`place_part`), the areas of `curve_areas`, and the worth in nats of the whole image and of the
    oracle's choice by each judge (`<judge>_total`, `<judge>_oracle`). Ranks of blocks (`OF_BLOCKS`) are known if some
    block is worth at least `WORTH`. Each seed of the random maps is a row.
    """
    table = folder.read("signals", [*ROW, *MEASURED], [("head", "==", -1)])
    frame = table.to_pandas().merge(placeless(folder), how="left", on=ROW)
    frame["place_part"] = frame["spearman_response"] - frame["placeless_spearman"]
    frame = frame.merge(curve_areas(curve_frame(folder)), how="outer", on=ROW)
    frame = frame.merge(_of_questions(folder), how="left", on="sample_id")
    oracle = frame[frame["signal"] == EVIDENCE].set_index("sample_id")
    for judge in JUDGES:
        frame[f"{judge}_oracle"] = frame["sample_id"].map(oracle[f"{judge}_nats"])
    frame.loc[frame["block_most"] < WORTH, list(OF_BLOCKS)] = np.nan
    return ordered(frame.drop(columns=[f"{judge}_most" for judge in JUDGES]))


def headline(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the frame with measures of the response only for answers of at least `LEAST_TOKENS` tokens.

    The response of a one-token answer is the row of the last prompt token, so nearness to it is trivial.

    Args:
        frame: Frame of `signal_frame`.
    """
    short = frame["answer_tokens"] < LEAST_TOKENS
    shown = frame[~(short & frame["signal"].isin(RESPONSES))].copy()
    shown.loc[shown["answer_tokens"] < LEAST_TOKENS, [*WITH_RESPONSE, *NEAR[ANSWER]]] = np.nan
    return shown


def summary_table(
    frame: pd.DataFrame, nulls: pd.DataFrame | None = None, measures: tuple[str, ...] = MEASURES
) -> pd.DataFrame:
    """Returns the mean of every measure with `_low`, `_high` and `_n`, by signal and layers.

    Questions with an unknown measure are left out of that measure; `n` and `images` count all. Random maps are one
    signal, the mean over their seeds.

    Args:
        frame: Frame of `signal_frame`.
        nulls: Table of `foveate.analysis.bias.measurement.row_nulls`; None leaves NaN in `row_correlation_p_null`.
        measures: Names of the measures.
    """
    size = {"n": frame["sample_id"].nunique(), "images": frame["image_id"].nunique()}
    frame = ordered(one_random(numbered(frame).drop(columns="kind", errors="ignore"), []))
    rows = []
    for (signal, layers), group in bar(frame.groupby(["signal", "layers"], sort=False), "signal", "summing up"):
        row = {"signal": signal, "layers": layers} | size
        for measure in measures:
            row |= named(measure, interval_in(group, measure))
        rows.append(row)
    table = pd.DataFrame(rows)
    if nulls is None:
        return table.assign(row_correlation_p_null=np.nan)
    return table.merge(nulls, "left", ["signal", "layers"])


def contrasts(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns differences `signal_a - signal_b`, paired by question, with intervals over images and corrected p.

    The seeds of random maps are several runs of one side, which the permutation test permutes. For a ratio of sums the
    difference is that of the ratios, and the test is about the sums.

    Args:
        frame: Frame of `headline`.
    """
    questions = numbered(frame).drop_duplicates("sample_id").set_index("sample_id")
    images = questions["image_id"].to_numpy()
    wanted = dict.fromkeys(measure for _, _, measures in _CONTRASTS for measure in measures)
    values = {measure: _by_signal(frame, RATIOS.get(measure, (measure,))[0], questions.index) for measure in wanted}
    rows = []
    for first, second, measures in bar(_CONTRASTS, "contrast", "comparing"):
        for measure in measures:
            base = questions[RATIOS[measure][1]].to_numpy(float) if measure in RATIOS else None
            for a in (one for one in values[measure] if one[0] == first and is_whole(one)):
                for b in (one for one in values[measure] if one[0] == second and is_whole(one)):
                    found = _contrast(values[measure][a], values[measure][b], images, measure, base)
                    rows += [(measure, *a, *b, *found)] if found else []
    columns = ["measure", "signal_a", "layers_a", "signal_b", "layers_b", "mean_a", "mean_b"]
    table = pd.DataFrame(rows, columns=[*columns, "difference", "low", "high", "p", "n", "images"])
    return table.assign(p_holm=holm(table["p"]))


def judges_table(folder: TableFolder) -> pd.DataFrame:
    """Returns the share of questions in which each judge finds patches worth at least `WORTH` nats.

    In thinned context these are the block that is best by one half of the orders, valued by the other half.

    Columns: judge, share, low, high, n (known questions), images, and `nats`, `nats_low`, `nats_high`: the total worth
    of a question's patches, averaged over questions.
    """
    frame, rows = _of_questions(folder), []
    images = folder.read(SAMPLES, ["sample_id", "image_id"]).to_pandas().set_index("sample_id")["image_id"]
    frame = frame.assign(image_id=frame["sample_id"].map(images))
    for judge in JUDGES:
        known = frame.dropna(subset=f"{judge}_most")
        row = {"judge": judge, "n": len(known), "images": known["image_id"].nunique()}
        if len(known):
            found = mean_interval(known[f"{judge}_most"] >= WORTH, known["image_id"])
            nats = ratio_interval(known[f"{judge}_total"], np.ones(len(known)), known["image_id"])
            row |= dict(zip(("share", "low", "high"), found, strict=False))
            row |= dict(zip(("nats", "nats_low", "nats_high"), nats, strict=False))
        rows.append(row)
    columns = ["judge", "share", "low", "high", "nats", "nats_low", "nats_high", "n", "images"]
    return pd.DataFrame(rows).reindex(columns=columns)


def pair_matrix(folder: TableFolder, measure: str = "spearman") -> pd.DataFrame:
    """Returns the mean of a measure for every pair of (signal, layers) as a square.

    The diagonal is 1, or 0 for a divergence. Random maps are the mean over seeds.
    """
    sides = ["signal_a", "layers_a", "signal_b", "layers_b"]
    frame = means(folder, "pairs", sides, measure)
    swapped = frame.set_axis([*sides[2:], *sides[:2], measure, "n"], axis=1)
    frame = pd.concat([frame, swapped])
    for side in ("a", "b"):
        frame.loc[frame[f"signal_{side}"] == RANDOM, f"layers_{side}"] = ""
    square = frame.groupby(sides)[measure].mean().unstack([2, 3])
    order = sorted(square.index, key=key_order)
    square = square.reindex(index=order, columns=order)
    values = square.to_numpy(float, copy=True)
    np.fill_diagonal(values, 0.0 if measure == "jensen_shannon" else 1.0)
    return pd.DataFrame(values, square.index, square.columns)


def corrections_table(corrected: Sequence[Corrected], out: Path) -> pd.DataFrame:
    """Returns the accuracy of every corrected attention and its paired difference from the uncorrected one.

    Columns: attention, correction, accuracy, low, high, evidence_recall, difference, difference_low, difference_high,
    p_holm (over the table; NaN without correction), changed (share of questions with other kept patches), n, images,
    run.

    Args:
        corrected: Evaluated corrections, from `foveate.studies.corrections.evaluate_corrections`.
        out: Folder of all results.
    """
    records = {one: read_records(out, one.run) for one in corrected}
    plain = {one.attention: frame for one, frame in records.items() if one.correction == PLAIN}
    rows = []
    for one, frame in records.items():
        found = mean_interval(frame["score"], frame["image_id"])
        row = {"attention": one.attention, "correction": one.correction}
        row |= dict(zip(("accuracy", "low", "high", "n"), found, strict=True))
        row |= {"images": frame["image_id"].nunique(), "evidence_recall": frame["evidence_recall"].mean()}
        row |= {"run": one.run}
        others = plain[one.attention]["kept"]
        row["changed"] = sum(set(a) != set(b) for a, b in zip(frame["kept"], others, strict=True)) / len(frame)
        if one.correction != PLAIN:
            pair = frame["score"], plain[one.attention]["score"], frame["image_id"]
            names = ("difference", "difference_low", "difference_high")
            row |= dict(zip(names, difference_interval(*pair), strict=False)) | {"p_holm": paired_p(*pair)}
        rows.append(row)
    columns = ["attention", "correction", "accuracy", "low", "high", "evidence_recall", "difference", "difference_low"]
    table = pd.DataFrame(rows).reindex(columns=[*columns, "difference_high", "p_holm", "changed", "n", "images", "run"])
    return table.assign(p_holm=holm(table["p_holm"]))


def numbered(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the frame with images as numbers, which are faster to compare than names."""
    return frame.assign(image_id=pd.factorize(frame["image_id"])[0])


def _of_questions(folder: TableFolder) -> pd.DataFrame:
    """Returns kind, answer length, and total and largest worth by each judge; NaN where unknown."""
    columns = {"block": "drop", "thinned": "thinned", "thing": "thing_drop"}
    known = ["sample_id", "kind", "answer_tokens", "thinned_best"]
    table = folder.read(SAMPLES, [*known, *columns.values()]).to_pandas()
    for judge, column in columns.items():
        worths = [np.asarray(worth, float) for worth in table[column]]
        total = [(worth if judge == "thinned" else worth.clip(0)).sum() if len(worth) else np.nan for worth in worths]
        table[f"{judge}_total"] = total
        table[f"{judge}_most"] = [worth.max(initial=-np.inf) if len(worth) else np.nan for worth in worths]
    table["thinned_most"] = table["thinned_best"]  # the maximum of many estimates is biased upwards
    return table.drop(columns=["thinned_best", *columns.values()])


def _contrast(
    a: np.ndarray, b: np.ndarray, images: np.ndarray, measure: str, base: np.ndarray | None
) -> tuple[float, ...]:
    """Returns means, difference, interval, p, n and images of a row; empty if no question has both sides.

    Args:
        a: (question, run) values of the first signal.
        b: (question, run) values of the second signal.
        images: (question) image of each question.
        measure: Name of the measure.
        base: (question) denominators of a ratio, or None.
    """
    sides = [a, b] if base is None else [a, b, base[:, None]]
    known = ~np.isnan(np.concatenate(sides, 1)).any(1)
    if not known.any():
        return ()
    a, b, where = a[known], b[known], images[known]
    of_a, of_b = a.mean(1), b.mean(1)
    if base is None:
        total, (difference, low, high, n) = len(where), _difference(of_a, of_b, where, measure)
    else:
        total, (difference, low, high, n) = base[known].sum(), ratio_interval(of_a - of_b, base[known], where)
    means = float(of_a.sum() / total), float(of_b.sum() / total)
    return *means, difference, low, high, paired_p(a, b, where), n, len(np.unique(where))


def _difference(a: np.ndarray, b: np.ndarray, images: np.ndarray, measure: str) -> Interval:
    low, high = RANGES.get(measure, (-np.inf, np.inf))
    return difference_interval(a, b, images, half_range=high - low)


def _by_signal(frame: pd.DataFrame, measure: str, samples: pd.Index) -> dict[Key, np.ndarray]:
    """Returns the values (question, run) of every signal that has the measure; seeds are runs of one signal.

    Args:
        frame: Rows of signals.
        measure: Name of the measure.
        samples: Order of the questions.
    """
    wide = frame.pivot(index="sample_id", columns=["signal", "layers"], values=measure).reindex(samples)
    known = wide.dropna(axis="columns", how="all")
    found: dict[Key, np.ndarray] = {}
    for signal, layers in known.columns:
        key = (str(signal), "" if signal == RANDOM else str(layers))
        column = known[signal, layers].to_numpy(float)[:, None]
        found[key] = np.concatenate([found[key], column], 1) if key in found else column
    return found
