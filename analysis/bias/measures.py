"""Measures of each signal in a bias measurement, their ranges, and their intervals over images."""

import numpy as np
import pandas as pd

from analysis.bias.signals import ANSWER, RANDOM, RESPONSE, ROW
from analysis.ratios import ratio_interval
from analysis.statistics import ROUNDING, Interval, difference_interval, mean_interval

SHARES = (  # in [0, 1]
    *("visual_mass", "overlap_response", "js_response", "retained_response", "overlap_answer"),
    *("evidence_recall", "evidence_precision", "last_rows_share", "sink_share", "block_hit"),
)
OF_BLOCKS = ("block_spearman", "thinned_spearman", "block_hit")  # of questions in which the judge finds a signal
CORRELATIONS = (
    *("spearman_response", "kendall_response", "spearman_answer", "raster_correlation", "row_correlation"),
    *("block_spearman", "thinned_spearman"),
)
NATS = ("block_nats", "thinned_nats", "thing_nats")
OTHERS = ("entropy", "effective_tokens", "centroid_down", "centroid_right", *NATS)
MEASURED = (*SHARES, *CORRELATIONS, *OTHERS)
PLACELESS = ("placeless_spearman", "place_part")
NEAR = {  # each definition of the response: how near a signal is to it
    RESPONSE: ("spearman_response", "overlap_response"),
    ANSWER: ("spearman_answer", "overlap_answer"),
}
WITH_RESPONSE = (*NEAR[RESPONSE], "kendall_response", "js_response", "retained_response", *PLACELESS)
AREAS = ("insertion_area", "deletion_area")
JUDGES = ("block", "thinned", "thing")
RATIOS = {  # the sum over questions of the first, as a share of that of the second
    **{f"{judge}_share": (f"{judge}_nats", f"{judge}_total") for judge in JUDGES},
    **{f"{judge}_of_oracle": (f"{judge}_nats", f"{judge}_oracle") for judge in JUDGES},
}
MEASURES = (*MEASURED, *PLACELESS, *AREAS, *RATIOS)
PERCENT = (*SHARES, *RATIOS)
RANGES = {  # of measures that have one
    **dict.fromkeys(SHARES, (0.0, 1.0)),
    **dict.fromkeys((*CORRELATIONS, "placeless_spearman"), (-1.0, 1.0)),
    **dict.fromkeys(("centroid_down", "centroid_right"), (-0.5, 0.5)),
    "place_part": (-2.0, 2.0),  # of two correlations the difference
}


def interval_of(values: pd.Series, images: pd.Series, measure: str) -> Interval:
    """Returns the mean of what is known of a measure, with its interval over images.

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
            "its range in analysis.bias.measures.RANGES"
        )
    if measure in SHARES:
        return mean_interval(within, where)
    return difference_interval(within, np.zeros(len(within)), where, half_range=high)


def interval_in(frame: pd.DataFrame, measure: str) -> Interval:
    """Returns the interval of a measure over the rows of a frame: of a ratio that of sums, else `interval_of`.

    Args:
        frame: Rows of one signal, as `analysis.bias.data.signal_frame` gives them.
        measure: One of `MEASURES`.
    """
    if measure not in RATIOS:
        return interval_of(frame[measure], frame["image_id"], measure)
    part, whole = (frame[name].to_numpy(float) for name in RATIOS[measure])
    known = ~np.isnan(part + whole)
    if not known.any():
        return Interval(np.nan, np.nan, np.nan, 0)
    return ratio_interval(part[known], whole[known], frame["image_id"].to_numpy()[known])


def one_random(frame: pd.DataFrame, beside: list[str]) -> pd.DataFrame:
    """Returns random maps as one signal: of every question the mean over seeds.

    Args:
        frame: Rows of signals.
        beside: What else tells rows of a question and signal apart.
    """
    random = frame["signal"] == RANDOM
    merged = frame[random].assign(layers="").groupby([*ROW, *beside], as_index=False).mean()
    return pd.concat([frame[~random], merged], ignore_index=True)
