"""From the tables of a bias measurement to numbers: where each signal looks, and what that is worth to the answer."""

import numpy as np
import pandas as pd

from analysis.bias.curves import curve_areas, curve_frame
from analysis.bias.maps import placeless
from analysis.bias.measured import means
from analysis.bias.measures import (
    JUDGES,
    MEASURED,
    MEASURES,
    NEAR,
    OF_BLOCKS,
    WITH_RESPONSE,
    interval_in,
    one_random,
)
from analysis.bias.signals import ANSWER, EVIDENCE, RANDOM, RESPONSES, ROW, key_order, ordered
from analysis.ratios import ratio_interval
from analysis.statistics import Interval, mean_interval
from foveate.bias.tables import SAMPLES, TableFolder
from foveate.core.progress import bar

LEAST_TOKENS = 3  # of an answer whose response is told apart from the prompt: two of its rows are the answer's own
WORTH = 0.05  # nats: who loses less has hardly missed what was taken away


def signal_frame(folder: TableFolder) -> pd.DataFrame:
    """Returns every measure of the mean over heads, a row per question, signal and layers, with kind and length.

    Beside the measured ones: Spearman with the response when from both sides what they look at on average over all
    questions is taken away (`placeless_spearman`), by how much that lowers it (`place_part`), the areas of
    `curve_areas`, and of each judge what the whole image and the oracle's choice are worth (`<judge>_total`,
    `<judge>_oracle`, in nats). Ranks of blocks (`OF_BLOCKS`) are known where some block is worth `WORTH`. Each seed of
    the random maps is a row.
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
    """Returns the frame with what speaks of the response known only for answers of at least `LEAST_TOKENS` tokens.

    Of an answer of one token the response is the row of the last prompt token, so to be near it means nothing.

    Args:
        frame: As `signal_frame` gives it.
    """
    brief = frame["answer_tokens"] < LEAST_TOKENS
    shown = frame[~(brief & frame["signal"].isin(RESPONSES))].copy()
    shown.loc[shown["answer_tokens"] < LEAST_TOKENS, [*WITH_RESPONSE, *NEAR[ANSWER]]] = np.nan
    return shown


def summary_table(
    frame: pd.DataFrame, nulls: pd.DataFrame | None = None, measures: tuple[str, ...] = MEASURES
) -> pd.DataFrame:
    """Returns, per signal and layers, the mean of every measure, `_low` and `_high` of its interval, and its `_n`.

    Questions whose measure is not known are left out, measure by measure; `n` and `images` count all. Random maps are
    one signal, the mean over their seeds.

    Args:
        frame: As `signal_frame` gives it.
        nulls: As `analysis.bias.maps.place_nulls` gives them, for `row_correlation_p_null`, which is NaN without.
        measures: Which ones.
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


def judges_table(folder: TableFolder) -> pd.DataFrame:
    """Returns in which share of questions each judge finds something worth `WORTH` nats, and the mean of all.

    In thinned context this is the block that one half of the orders finds best, valued by the other half.

    Columns: judge, share, low, high, n (questions that it knows), images, and `nats`, `nats_low`, `nats_high`: the mean
    over questions of what is worth anything to the answer.
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
    """Returns the mean of a measure of every pair of signals as a square; its names are (signal, layers).

    The diagonal is what a signal has with itself: 1, or 0 for a divergence. Random maps are the mean over seeds.
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


def numbered(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns images as numbers, which are told apart much faster than names."""
    return frame.assign(image_id=pd.factorize(frame["image_id"])[0])


def named(measure: str, interval: Interval) -> dict[str, float]:
    """Returns an interval as the columns of a row."""
    return dict(zip((measure, f"{measure}_low", f"{measure}_high", f"{measure}_n"), interval, strict=True))


def _of_questions(folder: TableFolder) -> pd.DataFrame:
    """Returns kind, length of answer, and the total and greatest worth by each judge; NaN where none is known."""
    columns = {"block": "drop", "thinned": "thinned", "thing": "thing_drop"}
    known = ["sample_id", "kind", "answer_tokens", "thinned_best"]
    table = folder.read(SAMPLES, [*known, *columns.values()]).to_pandas()
    for judge, column in columns.items():
        worths = [np.asarray(worth, float) for worth in table[column]]
        total = [(worth if judge == "thinned" else worth.clip(0)).sum() if len(worth) else np.nan for worth in worths]
        table[f"{judge}_total"] = total
        table[f"{judge}_most"] = [worth.max(initial=-np.inf) if len(worth) else np.nan for worth in worths]
    table["thinned_most"] = table["thinned_best"]  # the greatest of many estimates would be too great
    return table.drop(columns=["thinned_best", *columns.values()])
