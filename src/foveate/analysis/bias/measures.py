"""Signals and measures of a bias measurement: names, order, ranges and intervals over images."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from foveate.analysis.statistics import ROUNDING, Interval, difference_interval, mean_interval, ratio_interval
from foveate.analysis.tables import percent, points

TOWER, DECODER = ("cls", "cls sum", "received"), ("prompt", "question", "every", "response", "answer")
CONTROLS = ("evidence", "occlusion", "thinned", "random", "uniform")
ORDER = (*TOWER, *DECODER, *CONTROLS)
SUM, RESPONSE, ANSWER, EVIDENCE, RANDOM = "cls sum", "response", "answer", "evidence", "random"
RESPONSES = (RESPONSE, ANSWER)  # rows that produce the answer; rows of the answer's own tokens
PROMPTS = ("prompt", "question")  # last prompt token; mean over the text tokens of the question
ROW = ["sample_id", "image_id", "signal", "layers"]

Key = tuple[str, str]  # signal and layers

SHARES = (  # in [0, 1]
    *("visual_mass", "overlap_response", "js_response", "retained_response", "overlap_answer"),
    *("evidence_recall", "evidence_precision", "last_rows_share", "sink_share", "block_hit"),
)
OF_BLOCKS = ("block_spearman", "thinned_spearman", "block_hit")  # known if some block matters to the answer
CORRELATIONS = (
    *("spearman_response", "kendall_response", "spearman_answer", "raster_correlation", "row_correlation"),
    *("block_spearman", "thinned_spearman"),
)
NATS = ("block_nats", "thinned_nats", "thing_nats")
OTHERS = ("entropy", "effective_tokens", "centroid_down", "centroid_right", *NATS)
MEASURED = (*SHARES, *CORRELATIONS, *OTHERS)
PLACELESS = ("placeless_spearman", "place_part")
NEAR = {  # measures of nearness to the response, by its definition
    RESPONSE: ("spearman_response", "overlap_response"),
    ANSWER: ("spearman_answer", "overlap_answer"),
}
WITH_RESPONSE = (*NEAR[RESPONSE], "kendall_response", "js_response", "retained_response", *PLACELESS)
AREAS = ("insertion_area", "deletion_area")
WORTHS = ("evidence_recall", "block_share", "thinned_share", "thing_share", *AREAS)
LEANS = ("row_correlation", "last_rows_share")
JUDGES = ("block", "thinned", "thing")
RATIOS = {  # sum of the first over questions as a share of the sum of the second
    **{f"{judge}_share": (f"{judge}_nats", f"{judge}_total") for judge in JUDGES},
    **{f"{judge}_of_oracle": (f"{judge}_nats", f"{judge}_oracle") for judge in JUDGES},
}
MEASURES = (*MEASURED, *PLACELESS, *AREAS, *RATIOS)
PERCENT = (*SHARES, *RATIOS)
RANGES = {  # of bounded measures
    **dict.fromkeys(SHARES, (0.0, 1.0)),
    **dict.fromkeys((*CORRELATIONS, "placeless_spearman"), (-1.0, 1.0)),
    **dict.fromkeys(("centroid_down", "centroid_right"), (-0.5, 0.5)),
    "place_part": (-2.0, 2.0),  # difference of two correlations
}
MEASURE_NAMES = {
    "spearman_response": "Spearman with the response",
    "overlap_response": "top overlap with the response",
    "spearman_answer": "Spearman with the answer's own tokens",
    "overlap_answer": "top overlap with the answer's own tokens",
    "placeless_spearman": "Spearman with the response, without mean maps",
    "place_part": "part of Spearman due to mean maps",
    "evidence_recall": "evidence recall",
    "block_share": "worth in the top, block removed",
    "thinned_share": "worth in the top, thinned context",
    "thing_share": "worth in the top, needed thing removed",
    **{f"{judge}_of_oracle": f"share of the oracle's worth, {judge} judge" for judge in JUDGES},
    "insertion_area": "nats lost, top patches left",
    "deletion_area": "nats lost, top patches removed",
    "row_correlation": "row correlation",
    "row_correlation_p_null": "p of shuffled patches",
    "last_rows_share": "share in the last rows",
}


def formatted(value: float, measure: str, signed: bool = False) -> str:
    """Formats a value of a measure: shares in %, or in points if signed, others with two or three decimals."""
    if pd.isna(value):
        return "-"
    if measure in PERCENT:
        return points(value) if signed else percent(value)
    digits = 3 if measure in AREAS else 2
    return f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}"


def with_interval(row: pd.Series, measure: str) -> str:
    """Formats a measure of a row of `summary_table`: `45.1 [40.2, 50.0]`, with its n if it differs from the row's."""
    mean, low, high = (formatted(row[name], measure) for name in (measure, f"{measure}_low", f"{measure}_high"))
    if mean == "-":
        return mean
    few = f" (n = {row[f'{measure}_n']:,.0f})" if row[f"{measure}_n"] < row["n"] else ""
    return f"{mean} [{'no interval' if low == '-' else f'{low}, {high}'}]{few}"


def key_order(key: Key) -> tuple[int, int, list[int]]:
    """Returns a sort key: signals as in `ORDER`, then single layers before sums."""
    signal, layers = key
    ends = [int(end) for end in layers.split("-") if end]
    return ORDER.index(signal) if signal in ORDER else len(ORDER), len(ends), ends


def ordered(frame: pd.DataFrame, columns: Iterable[str] = ()) -> pd.DataFrame:
    """Returns the rows sorted by `key_order`, then by these columns."""
    keys = pd.MultiIndex.from_frame(frame[["signal", "layers"]])
    rank = {key: number for number, key in enumerate(sorted(keys.unique(), key=key_order))}
    order = frame.assign(_key=[rank[key] for key in keys])
    return order.sort_values(["_key", *columns], kind="stable", ignore_index=True).drop(columns="_key")


def is_whole(key: Key) -> bool:
    """Returns whether a key is a mean over the blocks, for the response, or any key of another signal."""
    return key[0] not in RESPONSES or "-" in key[1]


def interval_of(values: pd.Series, images: pd.Series, measure: str) -> Interval:
    """Returns the mean of a measure with its interval over images; no interval if it is unbounded and images agree.

    Args:
        values: One value per question; NaN is left out.
        images: Image of each question.
        measure: Name of the measure.

    Raises:
        ValueError: A value is outside the measure's range by more than rounding.
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
            "its range in foveate.analysis.bias.measures.RANGES"
        )
    if measure in SHARES:
        return mean_interval(within, where)
    return difference_interval(within, np.zeros(len(within)), where, half_range=high)


def interval_in(frame: pd.DataFrame, measure: str) -> Interval:
    """Returns the interval of a measure over the rows of a frame, for ratios that of the sums.

    Args:
        frame: Rows of one signal, from `foveate.analysis.bias.data.signal_frame`.
        measure: One of `MEASURES`.
    """
    if measure not in RATIOS:
        return interval_of(frame[measure], frame["image_id"], measure)
    part, whole = (frame[name].to_numpy(float) for name in RATIOS[measure])
    known = ~np.isnan(part + whole)
    if not known.any():
        return Interval(np.nan, np.nan, np.nan, 0)
    return ratio_interval(part[known], whole[known], frame["image_id"].to_numpy()[known])


def one_random(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Returns the frame with random maps as one signal, the mean over seeds for each question.

    Args:
        frame: Rows of signals.
        columns: Further key columns besides `ROW`.
    """
    random = frame["signal"] == RANDOM
    merged = frame[random].assign(layers="").groupby([*ROW, *columns], as_index=False).mean()
    return pd.concat([frame[~random], merged], ignore_index=True)


def named(measure: str, interval: Interval) -> dict[str, float]:
    """Returns an interval as the columns of a row."""
    return dict(zip((measure, f"{measure}_low", f"{measure}_high", f"{measure}_n"), interval, strict=True))
