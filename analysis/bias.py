"""From the tables of a bias measurement to numbers: where each signal looks, and what that is worth to the answer."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from analysis.ranks import spearman
from analysis.statistics import Interval, difference_interval, holm, mean_interval, paired_p
from foveate.evaluation.tables import SAMPLES, TableFolder

TOWER, DECODER = ("cls", "cls sum", "received"), ("prompt", "question", "every", "response")
CONTROLS = ("evidence", "occlusion", "random", "uniform")
ORDER = (*TOWER, *DECODER, *CONTROLS)
RESPONSE, RANDOM = "response", "random"

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
_WITHIN = (*SHARES, *CORRELATIONS, "centroid_down", "centroid_right", "placeless_spearman")  # [-1, 1]

_LOSSES = {"insertion": "insertion_loss", "deletion": "deletion_loss"}
_ROW = ["sample_id", "image_id", "signal", "layers"]
_WORTH = ("evidence_recall", "causal_mass", *AREAS)
_NEAR = ("spearman_response", "overlap_response")
_LEAN = ("row_correlation", "last_rows_share")
_CONTRASTS = (  # of every signal of that name with every one of that; of the response only what all blocks say
    ("cls sum", "prompt", (*_NEAR, *PLACELESS, *_WORTH)),
    ("cls sum", RESPONSE, (*_LEAN, *_WORTH)),
    ("prompt", RESPONSE, (*_LEAN, *_WORTH)),
    ("cls sum", RANDOM, _NEAR),
    ("prompt", RANDOM, _NEAR),
    *((name, RANDOM, _WORTH) for name in ORDER if name != RANDOM),
)


class MeanMap(NamedTuple):
    """Where a signal looks on average over `n` questions, of sum 1; every question weighs equally."""

    signal: str
    layers: str
    values: np.ndarray
    n: int


def signal_frame(folder: TableFolder) -> pd.DataFrame:
    """Every measure of the mean over heads, one row per question, signal and layers.

    Beside the measured ones: Spearman with the response when from both sides what they look at on average over all
    questions is taken away (`placeless_spearman`), by how much that lowers it (`place_part`), and the areas of
    `curve_areas`. Random maps are one signal, the mean over their seeds.
    """
    table = folder.read("signals", [*_ROW, *MEASURED], [("head", "==", -1)])
    frame = _one_random(table.to_pandas(), [])
    frame = frame.merge(placeless(folder), how="left", on=_ROW)
    frame["place_part"] = frame["spearman_response"] - frame["placeless_spearman"]
    return _ordered(frame.merge(curve_areas(curve_frame(folder)), how="outer", on=_ROW))


def summary_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per signal and layers: of every measure the mean, `_low` and `_high` of its interval, and its `_n`.

    Questions whose measure is not known are left out, measure by measure; `n` and `images` count all.

    Args:
        frame: As `signal_frame` gives it.
    """
    frame, rows = _numbered(frame), []
    for (signal, layers), group in frame.groupby(["signal", "layers"], sort=False):
        row = {"signal": signal, "layers": layers, "n": len(group), "images": group["image_id"].nunique()}
        for measure in MEASURES:
            row |= _named(measure, interval_of(group[measure], group["image_id"], measure))
        rows.append(row)
    return pd.DataFrame(rows)


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
    for first, second, measures in _CONTRASTS:
        for measure in measures:
            for a in (one for one in values[measure] if one[0] == first):
                for b in (one for one in values[measure] if one[0] == second and _whole(one)):
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
            delta, low, high, n = difference_interval(a, b, images)
            row = {"layers": layers, "block": block, "delta": delta, "low": low, "high": high}
            rows.append(row | {"p_holm": paired_p(a, b, images), "n": n})
    table = pd.DataFrame(rows, columns=["layers", "block", "delta", "low", "high", "p_holm", "n"])
    return table.assign(p_holm=holm(table["p_holm"]))


def curve_frame(folder: TableFolder) -> pd.DataFrame:
    """What the own answer loses in log-probability, one row per question, signal, layers and share.

    `insertion_loss`: when only that share of the patches is left, the less the better the signal; `deletion_loss`:
    when it is taken away, the more the better.
    """
    frame = folder.read("curves", [*_ROW, "share", *_LOSSES]).to_pandas()
    whole = folder.read(SAMPLES, ["sample_id", "log_probability"]).to_pandas().set_index("sample_id")
    known = frame["sample_id"].map(whole["log_probability"])
    losses = {name: known - frame[measured] for measured, name in _LOSSES.items()}
    return _ordered(_one_random(frame.assign(**losses).drop(columns=list(_LOSSES)), ["share"]))


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
        wide = curves.pivot(index=_ROW, columns="share", values=loss).sort_index(axis=1)
        shares, losses = wide.columns.to_numpy(float), wide.to_numpy(float)
        area = np.trapezoid(losses, shares, axis=1) / np.ptp(shares) if len(shares) > 1 else losses[:, 0]
        areas[measure] = pd.Series(area, wide.index)
    return pd.DataFrame(areas).reset_index()


def placeless(folder: TableFolder) -> pd.DataFrame:
    """Spearman with the response when the mean map over all questions is taken from each: `placeless_spearman`.

    What a signal prefers whatever the question, and whatever the picture, is in its mean map; of two signals that
    share a preference for places, or differ by one, only the rest is compared. NaN where nothing is left.
    """
    names = folder.read("maps", ["signal"])["signal"].unique().to_pylist()
    target = [maps for layers, maps in _maps_of(folder, RESPONSE) if _whole((RESPONSE, layers))]
    if not target:
        return pd.DataFrame(columns=[*_ROW, "placeless_spearman"])
    wanted, parts = _without_mean(target[0]), []
    for name in names:
        for layers, maps in _maps_of(folder, name):
            mine, theirs = _without_mean(maps), wanted.reindex(maps.index)
            left = np.minimum(np.ptp(mine, axis=1), np.ptp(theirs, axis=1)) > 1e-9  # less is rounding
            found = np.where(left, spearman(mine.to_numpy(), theirs.to_numpy()), np.nan)
            part = maps.index.to_frame(index=False).assign(signal=name, layers=layers, placeless_spearman=found)
            parts.append(part[[*_ROW, "placeless_spearman"]])
    return pd.concat(parts, ignore_index=True)


def mean_maps(folder: TableFolder) -> list[MeanMap]:
    """The mean map of every signal and layers over all questions, each of sum 1, on a square grid."""
    names = folder.read("maps", ["signal"])["signal"].unique().to_pylist()
    found = []
    for name in sorted(names, key=_signal_key):
        for layers, maps in sorted(_maps_of(folder, name), key=lambda one: _layer_key(one[0])):
            side = round(maps.shape[1] ** 0.5)
            if side**2 != maps.shape[1]:
                raise ValueError(f"{maps.shape[1]} patches are not a square grid: only square ones can be drawn")
            found.append(MeanMap(name, layers, maps.mean().to_numpy().reshape(side, side), len(maps)))
    return found


def heads_data(folder: TableFolder, measure: str = "spearman_response") -> pd.DataFrame:
    """The mean of one measure over questions, one row per signal, layers and head, with its n."""
    table = folder.read("signals", ["signal", "layers", "head", measure], [("head", ">=", 0)])
    frame = _means(table, ["signal", "layers", "head"], measure)
    return _ordered(frame, ["head"])


def pair_matrix(folder: TableFolder, measure: str = "spearman") -> pd.DataFrame:
    """The mean of one measure of every pair of signals as a square; rows and columns are (signal, layers), in order.

    The diagonal is what a signal has with itself: 1, or 0 for a divergence. Random maps are the mean over seeds.
    """
    sides = ["signal_a", "layers_a", "signal_b", "layers_b"]
    frame = _means(folder.read("pairs", [*sides, measure]), sides, measure)
    swapped = frame.set_axis([*sides[2:], *sides[:2], measure, "n"], axis=1)
    frame = pd.concat([frame, swapped])
    for side in ("a", "b"):
        frame.loc[frame[f"signal_{side}"] == RANDOM, f"layers_{side}"] = ""
    means = frame.groupby(sides)[measure].mean()
    square = means.unstack([2, 3])
    order = sorted(square.index, key=lambda one: (_signal_key(one[0]), _layer_key(one[1])))
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
    """
    known = values.notna().to_numpy()
    numbers, where = values.to_numpy(float)[known], images.to_numpy()[known]
    if not len(numbers):
        return Interval(np.nan, np.nan, np.nan, 0)
    if measure in SHARES:
        return mean_interval(numbers.clip(0, 1), where)  # rounding may have left that range
    return _difference(numbers, np.zeros(len(numbers)), where, measure)


def _difference(a: np.ndarray, b: np.ndarray, images: np.ndarray, measure: str) -> Interval:
    found, index = difference_interval(a, b, images), np.unique(images, return_inverse=True)[1]
    agree = np.ptp(np.bincount(index, a - b) / np.bincount(index)) < 1e-12
    return found._replace(low=np.nan, high=np.nan) if agree and measure not in _WITHIN else found


def _contrast(a: np.ndarray, b: np.ndarray, images: np.ndarray, measure: str) -> tuple:
    """Means, difference, interval, p, n and images of a row; empty where no question has both."""
    known = ~np.isnan(a - b)
    if not known.any():
        return ()
    a, b, where = a[known], b[known], images[known]
    mean, low, high, n = _difference(a, b, where, measure)
    return float(a.mean()), float(b.mean()), mean, low, high, paired_p(a, b, where), n, len(np.unique(where))


def _by_signal(frame: pd.DataFrame, measure: str, samples: pd.Index) -> dict[tuple[str, str], np.ndarray]:
    """Of every signal that has the measure its values, question by question in this order."""
    wide = frame.pivot(index="sample_id", columns=["signal", "layers"], values=measure).reindex(samples)
    columns = ((str(signal), str(layers), column) for (signal, layers), column in wide.items())  # pyright: ignore
    return {(signal, layers): column.to_numpy(float) for signal, layers, column in columns if column.notna().any()}


def _numbered(frame: pd.DataFrame) -> pd.DataFrame:
    """Images as numbers, which are told apart much faster than names."""
    return frame.assign(image_id=pd.factorize(frame["image_id"])[0])


def _whole(one: tuple[str, str]) -> bool:
    """Of the response the mean over blocks, which stands as a range; of others any layer."""
    return one[0] != RESPONSE or "-" in one[1]


def _named(measure: str, interval: Interval) -> dict[str, float]:
    return dict(zip((measure, f"{measure}_low", f"{measure}_high", f"{measure}_n"), interval, strict=True))


def _one_random(frame: pd.DataFrame, beside: list[str]) -> pd.DataFrame:
    """Random maps as one signal: of every question the mean over seeds."""
    random = frame["signal"] == RANDOM
    merged = frame[random].assign(layers="").groupby([*_ROW, *beside], as_index=False).mean()
    return pd.concat([frame[~random], merged], ignore_index=True)


def _ordered(frame: pd.DataFrame, beside: Iterable[str] = ()) -> pd.DataFrame:
    """Signals as in `ORDER`, then single layers, then sums; questions as they come."""
    keys = frame["layers"].map({layers: _layer_key(layers) for layers in frame["layers"].unique()})
    order = frame.assign(_signal=frame["signal"].map(_signal_key), _layers=keys)
    order = order.sort_values(["_signal", "_layers", *beside], kind="stable", ignore_index=True)
    return order.drop(columns=["_signal", "_layers"])


def _signal_key(signal: str) -> int:
    return ORDER.index(signal) if signal in ORDER else len(ORDER)


def _layer_key(layers: str) -> tuple[int, ...]:
    ends = [int(end) for end in layers.split("-") if end]
    return len(ends), *ends


def _means(table: pa.Table, keys: list[str], measure: str) -> pd.DataFrame:
    """Grouped in Arrow, because pandas would hold every row of a large table as objects."""
    values = table[measure]
    known = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)  # pyright: ignore
    table = table.set_column(table.column_names.index(measure), measure, known)
    frame = table.group_by(keys).aggregate([(measure, "mean"), (measure, "count")]).to_pandas()
    return frame.rename(columns={f"{measure}_mean": measure, f"{measure}_count": "n"})[[*keys, measure, "n"]]


def _maps_of(folder: TableFolder, name: str) -> list[tuple[str, pd.DataFrame]]:
    """The maps of one signal, each of sum 1, by layers; rows are questions. Only one signal is held at a time."""
    table = folder.read("maps", ["sample_id", "image_id", "layers", "map"], [("signal", "==", name)])
    found = []
    for layers in table["layers"].unique().to_pylist():
        some = table.filter(pc.equal(table["layers"], layers))  # pyright: ignore
        maps = np.stack(some["map"].to_numpy()).astype(float)
        index = pd.MultiIndex.from_frame(some.select(["sample_id", "image_id"]).to_pandas())
        found.append((layers, pd.DataFrame(maps / maps.sum(axis=1, keepdims=True), index)))
    return found


def _without_mean(maps: pd.DataFrame) -> pd.DataFrame:
    return maps - maps.mean()
