"""Rank correlations with intervals, over trials: what one number says of the order of another."""

import warnings
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import bootstrap, pearsonr, permutation_test, rankdata

from analysis.statistics import RESAMPLES

PERMUTATIONS = 9999


class Correlation(NamedTuple):
    """Spearman's over `n` pairs, its 95 % interval and a two-sided p; NaN where one side is constant."""

    value: float
    low: float
    high: float
    p: float
    n: int


def correlation(a: np.ndarray, b: np.ndarray, seed: int = 0) -> Correlation:
    """Spearman's rank correlation: percentile bootstrap over pairs, p by permuting one side.

    Args:
        a: One number per trial.
        b: Another one.
        seed: Of both.
    """
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return Correlation(np.nan, np.nan, np.nan, np.nan, len(a))
    many: dict[str, Any] = {"vectorized": True, "batch": 1000, "rng": np.random.default_rng(seed)}
    interval = bootstrap((a, b), spearman, paired=True, n_resamples=RESAMPLES, method="percentile", **many)
    low, high = interval.confidence_interval
    test = permutation_test(
        (a,), lambda a, axis: spearman(a, b, axis), permutation_type="pairings", n_resamples=PERMUTATIONS, **many
    )
    return Correlation(float(spearman(a, b)), float(low), float(high), float(test.pvalue), len(a))


def spearman(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    """Spearman's rank correlation along an axis, as `scipy.stats.spearmanr` of each pair; 0 where one is constant."""
    a, b = np.broadcast_arrays(rankdata(a, axis=axis), rankdata(b, axis=axis))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant resamples
        result: Any = pearsonr(a, b, axis=axis)
    return np.nan_to_num(result.statistic)
