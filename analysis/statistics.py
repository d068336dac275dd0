"""Intervals in which the image, not the question, is the independent unit; `verdicts` has the tests.

Questions about one image share what was kept of it, so their scores are not independent. Everything here counts
or draws whole images. Scores and images are aligned arrays, one element per question.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, t
from statsmodels.stats.proportion import proportion_confint

RESAMPLES = 2000
ROUNDING = 1e-6  # by so much a value may leave its range

_LEVEL = 0.975
_PRIOR = 0.25  # images that differ in all their questions, added to the design effect


class Interval(NamedTuple):
    """A mean over `n` questions with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


class Totals(NamedTuple):
    """Sums over the questions of each image, of values x in [-1, 1]; every field is an array of (..., image).

    Attributes:
        sums: Of x.
        sizes: Of |x|.
        squares: Of x squared.
        counts: Number of questions.
        fractions: Number of questions whose x is none of -1, 0 and 1.
    """

    sums: np.ndarray
    sizes: np.ndarray
    squares: np.ndarray
    counts: np.ndarray
    fractions: np.ndarray


def mean_interval(scores: ArrayLike, images: ArrayLike) -> Interval:
    """Returns the mean score with Wilson's interval at the effective number of questions.

    Args:
        scores: Scores in [0, 1], one per question; fractions are scores too.
        images: The image of each question.
    """
    totals = totals_of(scores, images)
    low, high = share_interval(totals)
    n = int(totals.counts.sum())
    return Interval(float(totals.sums.sum() / n), float(low), float(high), n)


def difference_interval(scores: ArrayLike, baseline: ArrayLike, images: ArrayLike, half_range: float = 1.0) -> Interval:
    """Returns the mean of `scores - baseline`, paired by question, with its interval.

    The interval is `balance_interval` of the differences, divided by `half_range`. Without a range it is Student's
    over images, with the linearised variance of `effective_questions`; if all images agree, or there is only one, its
    ends are NaN, because nothing bounds what other images may have.

    Args:
        scores: One per question.
        baseline: Of the same questions.
        images: The image of each question.
        half_range: The largest difference that there can be: 1 for scores in [0, 1], 2 for those in [-1, 1].

    Raises:
        ValueError: A difference is larger.
    """
    differences = np.subtract(np.asarray(scores, float), np.asarray(baseline, float))
    if (largest := np.abs(differences).max(initial=0.0)) > half_range + ROUNDING:
        raise ValueError(
            f"a difference of {largest:g}, where at most half_range={half_range:g} was expected: give the largest "
            "difference that these scores can have"
        )
    scale = half_range if np.isfinite(half_range) else 1.0
    totals = totals_of(differences / scale, images)
    n, sampled = int(totals.counts.sum()), len(totals.counts)
    mean = float(scale * totals.sums.sum() / n)
    if np.isfinite(half_range):
        low, high = (scale * float(end) for end in balance_interval(totals))
        return Interval(mean, low, high, n)
    variance = _between(totals) / n**2
    if sampled < 2 or variance < 1e-24:
        return Interval(mean, np.nan, np.nan, n)
    half = float(t.ppf(_LEVEL, sampled - 1) * np.sqrt(variance))
    return Interval(mean, mean - half, mean + half, n)


def totals_of(values: ArrayLike, images: ArrayLike) -> Totals:
    """Adds up the values of each image.

    Args:
        values: One per question.
        images: The image of each question.

    Raises:
        ValueError: A value is NaN, there is none, or there is not one per image given.
    """
    values, index = checked(values, images)
    fraction = (np.abs(values - values.round()) > ROUNDING).astype(float)
    columns = (values, np.abs(values), values**2, np.ones(len(values)), fraction)
    return Totals(*(np.bincount(index, column) for column in columns))


def share_interval(totals: Totals) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends of Wilson's interval (1927) of a mean in [0, 1], at `effective_questions`."""
    share = totals.sums.sum(-1) / totals.counts.sum(-1)
    return _wilson(share, effective_questions(totals))


def balance_interval(totals: Totals) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends of the interval of a mean in [-1, 1] of paired differences.

    The mean is the share b of what is won, sum(max(x, 0)) / N, minus the share c of what is lost. Wilson's intervals
    of both, at `effective_questions`, are combined by square-and-add with the correlation of two shares of one
    multinomial, r = -sqrt(b c / ((1 - b) (1 - c))): low = b - c - sqrt(B^2 - 2 r B C + C^2), with B from b to its lower
    end and C from c to its upper end, and `high` likewise. Where no question differs, the ends are those of Wilson's
    interval for none of n. Source: Newcombe 1998, Statistics in Medicine 17, 2635 (paired proportions, method 10);
    Zou and Donner 2008, Statistics in Medicine 27, 1693.
    """
    questions, effective = totals.counts.sum(-1), effective_questions(totals)
    sums, sizes = totals.sums.sum(-1), totals.sizes.sum(-1)
    won, lost = ((sizes + sign * sums).clip(0) / (2 * questions) for sign in (1, -1))
    rest = ((1 - won) * (1 - lost)).clip(1e-12)
    r = -np.sqrt((won * lost / rest).clip(0, 1))
    (won_low, won_high), (lost_low, lost_high) = _wilson(won, effective), _wilson(lost, effective)

    def joint(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sqrt(a**2 - 2 * r * a * b + b**2)

    low = won - lost - joint(won - won_low, lost_high - lost)
    high = won - lost + joint(won_high - won, lost - lost_low)
    return low.clip(-1), high.clip(max=1)


def effective_questions(totals: Totals) -> np.ndarray:
    """Returns the number of independent questions whose answers would vary as much as these, cluster by cluster.

    With N questions about m images, mean x, r_i = sum_i - x n_i and S = sum((x_j - x)^2), the variance of the mean is
    D S / N^2 with the design effect D = m / (m - 1) sum(r_i^2) / S, at least 1, and n = x (1 - x) N^2 / (D S), which
    is N / D where every score is 0 or 1. It is multiplied by (z / t_(m - 1))^2. Source: Korn and Graubard 1998, Survey
    Methodology 24, 193, with Wilson's interval in the place of Clopper and Pearson's.

    Few differing questions say little of how they cluster: of one failure, D = 1 and n = N, although of none only m
    is certain. Therefore a quarter of an image with N / m questions, all of which differ, is added:
    D = (m / (m - 1) sum(r_i^2) + g (N / m)^2 / 4) / (S + g (N / m) / 4). Without any failure this is D = N / m and
    n = m, and with many it is the ratio above. g is 1 where all values are -1, 0 or 1. Of fractions it is the mean
    square of those that differ; both it and S are drawn to what whole scores would have, with weight 1 / (1 + k)^2
    where k scores are fractions. Where all scores are the same fraction, n = m.
    """
    questions, images = totals.counts.sum(-1), totals.counts.shape[-1]
    mean = totals.sums.sum(-1) / questions
    spread = (totals.squares.sum(-1) - questions * mean**2).clip(0)
    whole = (totals.sizes.sum(-1) - questions * mean**2).clip(0)  # the spread of -1, 0 and 1 with these sizes
    fractions = totals.fractions.sum(-1)
    doubt = 1 / (1 + fractions) ** 2
    constant = (spread < 1e-12 * questions) & (fractions > 0)
    size = np.where(constant, 1, (spread + doubt) / (fractions + whole + doubt))
    ratio = np.where(constant, 1, (spread + doubt) / (whole + doubt))
    each, added = questions / images, _PRIOR * size
    effect = ((_between(totals) + added * each**2) / (spread + added * each)).clip(1)
    return questions / (effect * ratio) * (norm.ppf(_LEVEL) / t.ppf(_LEVEL, max(images - 1, 1))) ** 2


def summed_interval(
    parts: Sequence[np.ndarray],
    images: ArrayLike,
    of: Callable[[np.ndarray], np.ndarray],
    strata: ArrayLike | None = None,
    seed: int = 0,
) -> Interval:
    """Returns a function of sums over questions, such as F1, with the percentile bootstrap over images.

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


def checked(values: ArrayLike, images: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns the values as numbers, and the number of the image of each."""
    values = np.asarray(values, float)
    _, index = np.unique(np.asarray(images), return_inverse=True)
    if values.shape != index.shape or not len(values) or np.isnan(values).any():
        raise ValueError(
            f"{values.shape} scores, {np.isnan(values).sum()} of them NaN, for the images of {index.shape} questions: "
            "expected one number per question and at least one question"
        )
    return values, index


def _between(totals: Totals) -> np.ndarray:
    """Returns m / (m - 1) sum((sum_i - x n_i)^2): N^2 times the variance of the ratio x = sum(sum_i) / sum(n_i)."""
    images = totals.counts.shape[-1]
    mean = totals.sums.sum(-1, keepdims=True) / totals.counts.sum(-1, keepdims=True)
    return ((totals.sums - mean * totals.counts) ** 2).sum(-1) * images / max(images - 1, 1)


def _wilson(share: np.ndarray, questions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = proportion_confint(share * questions, questions, method="wilson")
    return np.asarray(low), np.asarray(high)
