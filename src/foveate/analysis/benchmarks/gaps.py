"""Paired gaps between two runs on the same questions in any number of a benchmark, with intervals and tests."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from foveate.analysis.benchmark_numbers import columns_of
from foveate.analysis.statistics import Interval, difference_interval, summed_interval
from foveate.metrics.benchmarks import Measure

DRAWS = 9_999  # the smallest p is 1e-4, which survives Holm's correction over 400 tests
_AT_ONCE = 2**22  # swaps drawn at a time: bounds the memory
_TIE = 1e-9


class Gap(NamedTuple):
    """A difference of two runs.

    Attributes:
        interval: The difference, paired by question, with its interval.
        swapped: (draw) differences after random swaps of the two runs within images.
        images: Number of images.
    """

    interval: Interval
    swapped: np.ndarray
    images: int


def gap(measure: Measure, one: pd.DataFrame, other: pd.DataFrame, seed: int = 0) -> Gap:
    """Returns the difference of a number between two runs on the same questions.

    The interval of a mean is `difference_interval`; for other numbers, such as F1, both runs are resampled together.

    Args:
        measure: The number.
        one: Records of a run, sorted by sample ID.
        other: Records of the other run, sorted by sample ID.
        seed: Seed of resampling and swapping; the same images get the same draws.

    Raises:
        ValueError: The runs have different questions.
    """
    if list(one["sample_id"]) != list(other["sample_id"]):
        raise ValueError(
            f"runs of {len(one)} and {len(other)} questions are not about the same ones: expected the same sample ids "
            "in the same order"
        )
    rows = measure.selected(columns_of(one))
    one, other = one[rows], other[rows]
    images = one["image_id"]
    parts = [measure.parts(columns_of(frame)) for frame in (one, other)]
    if measure.is_mean:
        counted = parts[0][:, 1] > 0
        interval = difference_interval(parts[0][counted, 0], parts[1][counted, 0], images[counted])
    else:
        width, strata = parts[0].shape[1], one[measure.stratum] if measure.stratum else None
        both = np.concatenate(parts, 1)
        interval = summed_interval(
            [both],
            images,
            lambda sums: measure.from_sums(sums[..., :width]) - measure.from_sums(sums[..., width:]),
            strata,
            seed,
        )
    return Gap(interval, _swapped(measure, parts, images, seed), images.nunique())


def p_of(gaps: Collection[Gap]) -> float:
    """Returns the two-sided p of a mean gap of 0, by a permutation test over images.

    Under the null hypothesis the two runs are exchangeable within every image, so they are swapped with probability
    1/2, and p = (1 + draws with at least as large a mean gap) / (1 + draws). A draw with an undefined number counts as
    large. Source: Fisher 1935, The Design of Experiments, section 21; Phipson and Smyth 2010 (arXiv 1603.05766v1).

    Args:
        gaps: Gaps of different benchmarks, at least one.
    """
    found = abs(float(np.mean([one.interval.mean for one in gaps])))
    drawn = np.abs(np.mean([one.swapped for one in gaps], 0))
    return float((1 + (~(drawn < found - _TIE)).sum()) / (1 + len(drawn)))


def averaged(intervals: Mapping[str, Interval], same: Mapping[str, str]) -> Interval:
    """Returns the mean of some numbers with its interval.

    The distances of the ends from independent numbers are added as squares; those of benchmarks with the same questions
    are added without squares. Source: Zou and Donner 2008, Statistics in Medicine 27, 1693.

    Args:
        intervals: Interval of each benchmark, at least one.
        same: Maps a benchmark to another one with the same questions.
    """
    below: dict[str, float] = {}
    above: dict[str, float] = {}
    for data, found in intervals.items():
        name = same.get(data, data)
        below[name] = below.get(name, 0.0) + found.mean - found.low
        above[name] = above.get(name, 0.0) + found.high - found.mean
    mean, count = float(np.mean([found.mean for found in intervals.values()])), len(intervals)
    low, high = (float(np.sqrt(np.square(list(ends.values())).sum())) / count for ends in (below, above))
    return Interval(mean, mean - low, mean + high, sum(found.n for found in intervals.values()))


def _swapped(measure: Measure, parts: list[np.ndarray], images: pd.Series, seed: int) -> np.ndarray:
    """Returns the differences after `DRAWS` random swaps of the runs within images."""
    index = pd.factorize(images, sort=True)[0]
    sums = [np.stack([np.bincount(index, column) for column in one.T], 1) for one in parts]
    total, change = [one.sum(0) for one in sums], sums[1] - sums[0]
    rng, drawn = np.random.default_rng(seed), []
    batch = max(1, _AT_ONCE // len(change))
    for start in range(0, DRAWS, batch):
        swaps = rng.integers(0, 2, (min(batch, DRAWS - start), len(change)), np.uint8)
        moved = swaps.astype(float) @ change
        drawn.append(measure.from_sums(total[0] + moved) - measure.from_sums(total[1] - moved))
    return np.concatenate(drawn)
