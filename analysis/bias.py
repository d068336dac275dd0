"""From the tables of a bias measurement to numbers: where each signal looks, and what that is worth to the answer."""

import numpy as np
import pandas as pd

from analysis.maps import ROW, placeless
from analysis.measured import means
from analysis.signals import EVIDENCE, ORDER, RANDOM, RESPONSE, Key, is_whole, key_order, ordered
from analysis.statistics import ROUNDING, Interval, difference_interval, mean_interval
from analysis.verdicts import holm, paired_p
from foveate.core.progress import bar
from foveate.evaluation.tables import SAMPLES, TableFolder

SHARES = (  # in [0, 1]
    *("visual_mass", "overlap_response", "js_response", "retained_response", "evidence_recall", "evidence_precision"),
    *("last_rows_share", "sink_share", "causal_mass", "causal_hit"),
)
CORRELATIONS = ("spearman_response", "kendall_response", "raster_correlation", "row_correlation", "causal_spearman")
OTHERS = ("entropy", "effective_tokens", "centroid_down", "centroid_right")
MEASURED = (*SHARES, *CORRELATIONS, *OTHERS)
PLACELESS = ("placeless_spearman", "place_part")
WITH_RESPONSE = ("overlap_response", "spearman_response", "kendall_response", "js_response", "placeless_spearman")
AREAS = ("insertion_area", "deletion_area")
MEASURES = (*MEASURED, *PLACELESS, *AREAS)
RANGES = {  # of measures that have one
    **dict.fromkeys(SHARES, (0.0, 1.0)),
    **dict.fromkeys((*CORRELATIONS, "placeless_spearman"), (-1.0, 1.0)),
    **dict.fromkeys(("centroid_down", "centroid_right"), (-0.5, 0.5)),
    "place_part": (-2.0, 2.0),  # of two correlations the difference
}
UNNOTICED = 0.01  # nats: who loses less has not missed what was taken away

_LOSSES = {"insertion": "insertion_loss", "deletion": "deletion_loss"}
_WORTH = ("evidence_recall", "causal_mass", *AREAS)
_NEAR = ("spearman_response", "overlap_response")
_LEAN = ("row_correlation", "last_rows_share")
_CONTRASTS = (  # of every signal of that name with every one of that; of the response only what all blocks say
    ("cls sum", "prompt", (*_NEAR, *PLACELESS, *_WORTH)),
    ("cls sum", RESPONSE, (*_LEAN, *_WORTH)),
    ("prompt", RESPONSE, (*_LEAN, *_WORTH)),
    ("cls sum", RANDOM, _NEAR),
    ("prompt", RANDOM, _NEAR),
    *((name, EVIDENCE, _LEAN) for name in ("cls sum", "prompt", RESPONSE)),  # things may lie low or high themselves
    *((name, RANDOM, _WORTH) for name in ORDER if name != RANDOM),
)


def signal_frame(folder: TableFolder) -> pd.DataFrame:
    """Every measure of the mean over heads, one row per question, signal and layers.

    Beside the measured ones: Spearman with the response when from both sides what they look at on average over all
    questions is taken away (`placeless_spearman`), by how much that lowers it (`place_part`), and the areas of
    `curve_areas`. Random maps are one signal, the mean over their seeds.
    """
    table = folder.read("signals", [*ROW, *MEASURED], [("head", "==", -1)])
    frame = _one_random(table.to_pandas(), [])
    frame = frame.merge(placeless(folder), how="left", on=ROW)
    frame["place_part"] = frame["spearman_response"] - frame["placeless_spearman"]
    return ordered(frame.merge(curve_areas(curve_frame(folder)), how="outer", on=ROW))


def summary_table(frame: pd.DataFrame, nulls: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row per signal and layers: of every measure the mean, `_low` and `_high` of its interval, and its `_n`.

    Questions whose measure is not known are left out, measure by measure; `n` and `images` count all.

    Args:
        frame: As `signal_frame` gives it.
        nulls: As `analysis.maps.place_nulls` gives them, for `row_correlation_p_null`, which is NaN without.
    """
    frame, rows = _numbered(frame), []
    for (signal, layers), group in bar(frame.groupby(["signal", "layers"], sort=False), "signal", "summing up"):
        row = {"signal": signal, "layers": layers, "n": len(group), "images": group["image_id"].nunique()}
        for measure in MEASURES:
            row |= _named(measure, interval_of(group[measure], group["image_id"], measure))
        rows.append(row)
    table = pd.DataFrame(rows)
    if nulls is None:
        return table.assign(row_correlation_p_null=np.nan)
    return table.merge(nulls, "left", ["signal", "layers"])


def contrasts(frame: pd.DataFrame) -> pd.DataFrame:
    """Differences `signal_a - signal_b`, paired by question: interval over images, sign-flip p, Holm over the table.

    Args:
        frame: As `signal_frame` gives it.
    """
    images = _numbered(frame).drop_duplicates("sample_id").set_index("sample_id")["image_id"]
    values = {
        measure: _by_signal(frame, measure, images.index)
        for measure in dict.fromkeys(measure for _, _, measures in _CONTRASTS for measure in measures)
    }
    rows = []
    for first, second, measures in bar(_CONTRASTS, "contrast", "comparing"):
        for measure in measures:
            for a in (one for one in values[measure] if one[0] == first):
                for b in (one for one in values[measure] if one[0] == second and is_whole(one)):
                    found = _contrast(values[measure][a], values[measure][b], images.to_numpy(), measure)
                    rows += [(measure, *a, *b, *found)] if found else []
    columns = ["measure", "signal_a", "layers_a", "signal_b", "layers_b", "mean_a", "mean_b"]
    table = pd.DataFrame(rows, columns=[*columns, "difference", "low", "high", "p", "n", "images"])
    return table.assign(p_holm=holm(table["p"]))


def nearness(frame: pd.DataFrame) -> pd.DataFrame:
    """By how much the Spearman with the response of each sum of [CLS] layers exceeds that of each prompt block.

    Columns: layers, block, delta, low, high, p_holm (over these rows), n; paired by question.

    Args:
        frame: As `signal_frame` gives it.
    """
    wide = frame.pivot(index=["sample_id", "image_id"], columns=["signal", "layers"], values="spearman_response")
    images, rows = wide.index.get_level_values("image_id").to_numpy(), []
    for layers in wide.get("cls sum", pd.DataFrame()).columns:
        for block in wide["prompt"].columns:
            a, b = wide["cls sum", layers].to_numpy(float), wide["prompt", block].to_numpy(float)
            delta, low, high, n = _difference(a, b, images, "spearman_response")
            row = {"layers": layers, "block": block, "delta": delta, "low": low, "high": high}
            rows.append(row | {"p_holm": paired_p(a, b, images), "n": n})
    table = pd.DataFrame(rows, columns=["layers", "block", "delta", "low", "high", "p_holm", "n"])
    return table.assign(p_holm=holm(table["p_holm"]))


def curve_frame(folder: TableFolder) -> pd.DataFrame:
    """What the own answer loses in log-probability, one row per question, signal, layers and share.

    `insertion_loss`: when only that share of the patches is left, the less the better the signal; `deletion_loss`:
    when it is taken away, the more the better.
    """
    frame = folder.read("curves", [*ROW, "share", *_LOSSES]).to_pandas()
    whole = folder.read(SAMPLES, ["sample_id", "log_probability"]).to_pandas().set_index("sample_id")
    known = frame["sample_id"].map(whole["log_probability"])
    losses = {name: known - frame[measured] for measured, name in _LOSSES.items()}
    return ordered(_one_random(frame.assign(**losses).drop(columns=list(_LOSSES)), ["share"]))


def curve_table(curves: pd.DataFrame) -> pd.DataFrame:
    """One row per signal, layers and share: n, images, and both losses with intervals; as `summary_table`."""
    curves, rows = _numbered(curves), []
    for key, group in curves.groupby(["signal", "layers", "share"], sort=False):
        row = dict(zip(("signal", "layers", "share"), key, strict=True)) | {"images": group["image_id"].nunique()}
        for name in _LOSSES.values():
            row |= _named(name, interval_of(group[name], group["image_id"], name))
        rows.append(row | {"n": len(group)})
    return pd.DataFrame(rows)


def curve_areas(curves: pd.DataFrame) -> pd.DataFrame:
    """The mean loss along each curve, question by question: its area by the trapezoidal rule over the span of shares.

    Args:
        curves: As `curve_frame` gives it.
    """
    areas = {}
    for measure, loss in zip(AREAS, _LOSSES.values(), strict=True):
        wide = curves.pivot(index=ROW, columns="share", values=loss).sort_index(axis=1)
        shares, losses = wide.columns.to_numpy(float), wide.to_numpy(float)
        area = np.trapezoid(losses, shares, axis=1) / np.ptp(shares) if len(shares) > 1 else losses[:, 0]
        areas[measure] = pd.Series(area, wide.index)
    return pd.DataFrame(areas).reset_index()


def heads_data(folder: TableFolder, measure: str = "spearman_response") -> pd.DataFrame:
    """The mean of one measure over questions, one row per signal, layers and head, with its n."""
    return ordered(means(folder, "signals", ["signal", "layers", "head"], measure, [("head", ">=", 0)]), ["head"])


def pair_matrix(folder: TableFolder, measure: str = "spearman") -> pd.DataFrame:
    """The mean of one measure of every pair of signals as a square; rows and columns are (signal, layers), in order.

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


def interval_of(values: pd.Series, images: pd.Series, measure: str) -> Interval:
    """The mean of what is known of a measure, with its interval over images.

    Args:
        values: One per question; NaN is left out.
        images: The image of each.
        measure: Its name. If it has no bounds, and all images agree, nothing says what others may have, so there is no
            interval.

    Raises:
        ValueError: A value is out of the measure's range by more than rounding.
    """
    known = values.notna().to_numpy()
    numbers, where = values.to_numpy(float)[known], images.to_numpy()[known]
    if not len(numbers):
        return Interval(np.nan, np.nan, np.nan, 0)
    low, high = RANGES.get(measure, (-np.inf, np.inf))
    within = numbers.clip(low, high)
    worst = int(np.abs(numbers - within).argmax())
    if abs(numbers[worst] - within[worst]) > ROUNDING:
        raise ValueError(
            f"{measure} of {numbers[worst]:g}: expected a value in [{low:g}, {high:g}]; measure it again, or correct "
            "its range in analysis.bias.RANGES"
        )
    if measure in SHARES:
        return mean_interval(within, where)
    return difference_interval(within, np.zeros(len(within)), where, half_range=high)


def unnoticed(folder: TableFolder) -> Interval:
    """The share of the blocks of patches without which the own answer loses less than `UNNOTICED` nats, over images."""
    rows = folder.read(SAMPLES, ["image_id", "drop"]).to_pandas()
    drops = [np.asarray(drop, float) for drop in rows["drop"]]
    known = np.array([not np.isnan(drop).all() for drop in drops])
    if not known.any():
        return Interval(np.nan, np.nan, np.nan, 0)
    shares = [np.mean(drop[~np.isnan(drop)] < UNNOTICED) for drop, told in zip(drops, known, strict=True) if told]
    return mean_interval(shares, rows["image_id"][known])


def _difference(a: np.ndarray, b: np.ndarray, images: np.ndarray, measure: str) -> Interval:
    low, high = RANGES.get(measure, (-np.inf, np.inf))
    return difference_interval(a, b, images, half_range=high - low)


def _contrast(a: np.ndarray, b: np.ndarray, images: np.ndarray, measure: str) -> tuple:
    """Means, difference, interval, p, n and images of a row; empty where no question has both."""
    known = ~np.isnan(a - b)
    if not known.any():
        return ()
    a, b, where = a[known], b[known], images[known]
    mean, low, high, n = _difference(a, b, where, measure)
    return float(a.mean()), float(b.mean()), mean, low, high, paired_p(a, b, where), n, len(np.unique(where))


def _by_signal(frame: pd.DataFrame, measure: str, samples: pd.Index) -> dict[Key, np.ndarray]:
    """Of every signal that has the measure its values, question by question in this order."""
    wide = frame.pivot(index="sample_id", columns=["signal", "layers"], values=measure).reindex(samples)
    columns = ((str(signal), str(layers), column) for (signal, layers), column in wide.items())  # pyright: ignore
    return {(signal, layers): column.to_numpy(float) for signal, layers, column in columns if column.notna().any()}


def _numbered(frame: pd.DataFrame) -> pd.DataFrame:
    """Images as numbers, which are told apart much faster than names."""
    return frame.assign(image_id=pd.factorize(frame["image_id"])[0])


def _named(measure: str, interval: Interval) -> dict[str, float]:
    return dict(zip((measure, f"{measure}_low", f"{measure}_high", f"{measure}_n"), interval, strict=True))


def _one_random(frame: pd.DataFrame, beside: list[str]) -> pd.DataFrame:
    """Random maps as one signal: of every question the mean over seeds."""
    random = frame["signal"] == RANDOM
    merged = frame[random].assign(layers="").groupby([*ROW, *beside], as_index=False).mean()
    return pd.concat([frame[~random], merged], ignore_index=True)
