"""Intervals and tests in which the image, not the question, is the independent unit.

Questions about one image share what was kept of it, so their scores are not independent. Everything here draws or flips
whole images. Scores and images are aligned arrays, one element per question.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import bootstrap, monte_carlo_test
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

RESAMPLES = 2000
ROUNDING = 1e-6  # by so much a value may leave its range
FLIPS = 99_999  # the smallest p is 2 / 100,000: small enough to survive Holm's correction over 2,000 tests


class Interval(NamedTuple):
    """A mean over `n` questions with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


def mean_interval(scores: ArrayLike, images: ArrayLike, seed: int = 0) -> Interval:
    """Mean score with the percentile bootstrap over images.

    With s_i the sum of the scores of image i and n_i its number of questions, the mean is sum(s_i) / sum(n_i). A
    resample draws images with replacement and computes the same ratio; the interval lies between the 2.5th and the
    97.5th percentile. Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, sections 8 and 13 (the
    unit of resampling is the independent one). Where all images have the same mean the bootstrap would claim
    certainty; then the interval is Wilson's for that share of n images (Wilson 1927).

    Args:
        scores: Scores in [0, 1], one per question.
        images: The image of each question.
        seed: Seed of the resampling.
    """
    sums, counts = _per_image(scores, images)
    mean = sums.sum() / counts.sum()
    if _agree(sums / counts):
        low, high = _wilson(mean * len(sums), len(sums))
    else:
        low, high = _bootstrap(sums, counts, seed)
    return Interval(float(mean), float(low), float(high), int(counts.sum()))


def difference_interval(
    scores: ArrayLike, baseline: ArrayLike, images: ArrayLike, seed: int = 0, half_range: float = 1.0
) -> Interval:
    """Mean of `scores - baseline`, paired by question, with the percentile bootstrap over images.

    As `mean_interval` of the differences. Where the difference is the same d in all n images, the share of images
    with another one is still only known to be below the upper end u of Wilson's interval for 0 of n. Those may have
    any difference from -h to h, so the interval is d - u (h + d) to d + u (h - d).

    Args:
        scores: One per question.
        baseline: Of the same questions.
        images: The image of each question.
        seed: Seed of the resampling.
        half_range: h, the largest difference that there can be: 1 for scores in [0, 1], 2 for those in [-1, 1]. If it
            is infinite and all images agree, nothing is known of the others, and the ends are NaN.

    Raises:
        ValueError: A difference is larger.
    """
    differences = np.subtract(scores, baseline)
    sums, counts = _per_image(differences, images)
    if (largest := np.abs(differences).max()) > half_range + ROUNDING:
        raise ValueError(
            f"a difference of {largest:g}, where at most half_range={half_range:g} was expected: give the largest "
            "difference that these scores can have"
        )
    mean = sums.sum() / counts.sum()
    if _agree(sums / counts):
        unseen = _wilson(0, len(sums))[1]
        known = np.isfinite(half_range)
        low, high = (mean + unseen * (end - mean) if known else np.nan for end in (-half_range, half_range))
    else:
        low, high = _bootstrap(sums, counts, seed)
    return Interval(float(mean), float(low), float(high), int(counts.sum()))


def summed_interval(
    parts: Sequence[np.ndarray],
    images: ArrayLike,
    of: Callable[[np.ndarray], np.ndarray],
    strata: ArrayLike | None = None,
    seed: int = 0,
) -> Interval:
    """A number that is a function of sums over questions, such as F1, with the percentile bootstrap over images.

    A resample draws as many images as there are, with replacement, which weights the sums of each image by how often it
    was drawn. Where all resamples agree there is no interval, and its ends are NaN.

    Args:
        parts: (question, part) summands; several, such as those of seeds, are resampled together, and their mean is
            the number.
        images: The image of each question.
        of: From (..., part) sums to (...) numbers; NaN where undefined, as in a resample without positives.
        strata: Of each question; images are drawn within their stratum. None means all together.
        seed: Seed of the resampling.
    """
    names, first, index = np.unique(np.asarray(images), return_index=True, return_inverse=True)
    sums = [np.stack([np.bincount(index, column, len(names)) for column in one.T], 1) for one in parts]
    mean = np.mean([of(one.sum(0)) for one in sums])
    stratum_of = np.zeros(len(names)) if strata is None else np.asarray(strata)[first]
    rng, drawn, batch = np.random.default_rng(seed), [], 100  # bounds the memory at 100 x images
    for _ in range(RESAMPLES // batch):
        weights = np.zeros((batch, len(names)))
        for stratum in np.unique(stratum_of):
            members = np.flatnonzero(stratum_of == stratum)
            weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), batch)
        drawn.append(np.mean([of(weights @ one) for one in sums], 0))
    values = np.concatenate(drawn)
    defined = values[~np.isnan(values)]
    agree = len(defined) == 0 or np.ptp(defined) < 1e-12
    low, high = (np.nan, np.nan) if agree else np.percentile(defined, [2.5, 97.5])
    return Interval(float(mean), float(low), float(high), len(index))


def paired_p(scores: ArrayLike, baseline: ArrayLike, images: ArrayLike, seed: int = 0) -> float:
    """Two-sided p of no difference between two runs on the same questions: sign-flip permutation test over images.

    Without a difference, the sum d_i over the questions of image i is as likely as -d_i (exactly so for two single
    runs; against a mean over seeds only in the limit of many images). The statistic is sum(d_i);
    F = `FLIPS` sign patterns are drawn, and p = 2 min(#{T* >= T} + 1, #{T* <= T} + 1) / (F + 1), at most 1. Source:
    Fisher 1935, The Design of Experiments, section 21; Phipson and Smyth 2010 (arXiv 1603.05766v1) for the + 1.

    This is `scipy.stats.permutation_test` of type "samples", which takes ten times as long for as many patterns.
    """
    sums, _ = _per_image(np.subtract(scores, baseline), images)
    sums = sums[sums != 0]  # their sign changes nothing
    if not len(sums):
        return 1.0
    rng = np.random.default_rng(seed)
    result = monte_carlo_test(
        sums,
        lambda size: sums * (1 - 2 * rng.integers(0, 2, size, np.int8)),
        lambda flipped, axis: flipped.sum(axis),
        vectorized=True,
        n_resamples=FLIPS,
        batch=1000,  # bounds the memory at 1,000 x images
    )
    return float(result.pvalue)


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's step-down correction (Holm 1979) over the p values that are not NaN; NaN stays NaN."""
    corrected = np.array(p_values, float)
    tested = ~np.isnan(corrected)
    if tested.any():
        corrected[tested] = multipletests(corrected[tested], method="holm")[1]
    return corrected


def _per_image(values: ArrayLike, images: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the values and number of questions of each image."""
    values = np.asarray(values, float)
    names, index = np.unique(np.asarray(images), return_inverse=True)
    if values.shape != index.shape or not len(values) or np.isnan(values).any():
        raise ValueError(
            f"{values.shape} scores, {np.isnan(values).sum()} of them NaN, for the images of {index.shape} questions: "
            "expected one number per question and at least one question"
        )
    return np.bincount(index, values, len(names)), np.bincount(index, minlength=len(names))


def _agree(means: np.ndarray) -> bool:
    return bool(np.ptp(means) < 1e-12)


def _wilson(count: float, images: int) -> tuple[float, float]:
    low, high = np.asarray(proportion_confint(count, images, method="wilson"))
    return float(low), float(high)


def _bootstrap(sums: np.ndarray, counts: np.ndarray, seed: int) -> tuple[float, float]:
    result = bootstrap(
        (sums, counts),
        lambda sums, counts, axis: sums.sum(axis) / counts.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=500,  # bounds the memory at 500 x images
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return result.confidence_interval
