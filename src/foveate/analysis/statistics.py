"""Means, differences, ratios and rank correlations with 95 % intervals; `verdicts` has the tests.

Questions about one image share its kept patches, so their scores are not independent: the image is the independent
unit. Scores and images are aligned arrays, one element per question.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import bootstrap, norm, pearsonr, permutation_test, rankdata, t
from statsmodels.stats.proportion import proportion_confint

Numbers = np.ndarray | np.floating
"""An array of numbers, or a single one."""
RESAMPLES, PERMUTATIONS = 2000, 9999
ROUNDING = 1e-6  # largest distance of a value from its range

_OUTSIDE = 0.05  # of a 95 % interval
_PRIOR = 0.25  # images that differ in all their questions, added to the design effect


class Interval(NamedTuple):
    """A mean over `n` questions with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


class Correlation(NamedTuple):
    """Spearman's rank correlation of `n` pairs, its 95 % interval and two-sided p; NaN where one side is constant."""

    value: float
    low: float
    high: float
    p: float
    n: int


class Totals(NamedTuple):
    """Sums over the questions of each image, for values x in [-1, 1]; every field is an array of (..., image).

    Attributes:
        sums: Sum of x.
        sizes: Sum of |x|.
        squares: Sum of x squared.
        counts: Number of questions.
        fractions: Number of questions whose x is none of -1, 0 and 1.
    """

    sums: np.ndarray
    sizes: np.ndarray
    squares: np.ndarray
    counts: np.ndarray
    fractions: np.ndarray


def mean_interval(scores: ArrayLike, images: ArrayLike, together: int = 1) -> Interval:
    """Returns the mean score with Wilson's interval at the effective number of questions.

    Args:
        scores: Scores in [0, 1], one per question; they may be fractions.
        images: Image of each question.
        together: Number of intervals that shall hold at once with 95 %, by Bonferroni; then one of them may be chosen.
    """
    totals = totals_of(scores, images)
    low, high = share_interval(totals, together)
    n = int(totals.counts.sum())
    return Interval(float(totals.sums.sum() / n), float(low), float(high), n)


def difference_interval(
    scores: ArrayLike, baseline: ArrayLike, images: ArrayLike, half_range: float = 1.0, together: int = 1
) -> Interval:
    """Returns the mean of `scores - baseline`, paired by question, with its interval.

    The interval is `balance_interval` of the differences, divided by `half_range`. Without a range it is Student's
    over images, with the linearised variance of `effective_questions`; its ends are NaN if all images agree or there
    is only one image, because the values of other images are not bounded then.

    Args:
        scores: One score per question.
        baseline: Baseline scores of the same questions.
        images: Image of each question.
        half_range: Largest possible difference: 1 for scores in [0, 1], 2 for scores in [-1, 1].
        together: See `mean_interval`.

    Raises:
        ValueError: A difference is larger than `half_range`.
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
        low, high = (scale * float(end) for end in balance_interval(totals, together))
        return Interval(mean, low, high, n)
    variance = _between(totals) / n**2
    if sampled < 2 or variance < 1e-24:
        return Interval(mean, np.nan, np.nan, n)
    half = float(t.ppf(_upper(together), sampled - 1) * np.sqrt(variance))
    return Interval(mean, mean - half, mean + half, n)


def totals_of(values: ArrayLike, images: ArrayLike) -> Totals:
    """Adds up the values of each image.

    Args:
        values: One value per question.
        images: Image of each question.

    Raises:
        ValueError: A value is NaN, there are no values, or the lengths differ.
    """
    values, index = checked(values, images)
    fraction = (np.abs(values - values.round()) > ROUNDING).astype(float)
    columns = (values, np.abs(values), values**2, np.ones(len(values)), fraction)
    return Totals(*(np.bincount(index, column) for column in columns))


def share_interval(totals: Totals, together: int = 1) -> tuple[Numbers, Numbers]:
    """Returns the ends of Wilson's interval (1927) for a mean in [0, 1], at `effective_questions`.

    Args:
        totals: Sums over the questions of each image.
        together: See `mean_interval`.
    """
    share = totals.sums.sum(-1) / totals.counts.sum(-1)
    return _wilson(share, effective_questions(totals, together), together)


def balance_interval(totals: Totals, together: int = 1) -> tuple[Numbers, Numbers]:
    """Returns the ends of the interval for the mean of paired differences in [-1, 1].

    The mean is the share of gains b = sum(max(x, 0)) / N minus the share of losses c. Wilson's intervals of both, at
    `effective_questions`, are combined by square-and-add with the correlation of two shares of one multinomial,
    r = -sqrt(b c / ((1 - b) (1 - c))): low = b - c - sqrt(B^2 - 2 r B C + C^2), where B is the distance of b from its
    lower end and C that of c from its upper end; `high` swaps the ends. If no question differs, the ends are those of
    Wilson's interval for 0 of n. Source: Newcombe 1998, Statistics in Medicine 17, 2635 (paired proportions, method
    10); Zou and Donner 2008, Statistics in Medicine 27, 1693.

    Args:
        totals: Sums over the questions of each image.
        together: See `mean_interval`.
    """
    questions, effective = totals.counts.sum(-1), effective_questions(totals, together)
    sums, sizes = totals.sums.sum(-1), totals.sizes.sum(-1)
    won, lost = ((sizes + sign * sums).clip(0) / (2 * questions) for sign in (1, -1))
    rest = ((1 - won) * (1 - lost)).clip(1e-12)
    r = -np.sqrt((won * lost / rest).clip(0, 1))
    (won_low, won_high), (lost_low, lost_high) = (_wilson(one, effective, together) for one in (won, lost))

    def joint(a: Numbers, b: Numbers) -> Numbers:
        return np.sqrt(a**2 - 2 * r * a * b + b**2)

    low = won - lost - joint(won - won_low, lost_high - lost)
    high = won - lost + joint(won_high - won, lost - lost_low)
    return low.clip(-1), high.clip(max=1)


def effective_questions(totals: Totals, together: int = 1) -> Numbers:
    """Returns the number of independent questions that would give the same variance as these clusters.

    With N questions about m images, mean x, r_i = sum_i - x n_i and S = sum((x_j - x)^2), the variance of the mean is
    D S / N^2 with the design effect D = m / (m - 1) sum(r_i^2) / S, at least 1, and n = x (1 - x) N^2 / (D S), which
    is N / D if every score is 0 or 1. It is multiplied by (z / t_(m - 1))^2. Source: Korn and Graubard 1998, Survey
    Methodology 24, 193, with Wilson's interval in place of Clopper and Pearson's.

    A few differing questions give a poor estimate of D: one failure gives D = 1 and n = N, although no failure gives
    n = m. Therefore a quarter of an image with N / m questions, all of which differ, is added:
    D = (m / (m - 1) sum(r_i^2) + g (N / m)^2 / 4) / (S + g (N / m) / 4). Without failures this is D = N / m and n = m;
    with many failures it approaches the ratio above. g is 1 if all values are -1, 0 or 1. For fractions it is the mean
    square of those that differ; it and S are shrunk towards the values that whole scores would have, with weight
    1 / (1 + k)^2 if k scores are fractions. If all scores are the same fraction, n = m.

    Args:
        totals: Sums over the questions of each image.
        together: See `mean_interval`; z and t are those of its level.
    """
    questions, images = totals.counts.sum(-1), totals.counts.shape[-1]
    mean = totals.sums.sum(-1) / questions
    spread = (totals.squares.sum(-1) - questions * mean**2).clip(0)
    whole = (totals.sizes.sum(-1) - questions * mean**2).clip(0)  # spread of values in {-1, 0, 1} with these sizes
    fractions = totals.fractions.sum(-1)
    doubt = 1 / (1 + fractions) ** 2
    constant = (spread < 1e-12 * questions) & (fractions > 0)
    size = np.where(constant, 1, (spread + doubt) / (fractions + whole + doubt))
    ratio = np.where(constant, 1, (spread + doubt) / (whole + doubt))
    each, added = questions / images, _PRIOR * size
    effect = ((_between(totals) + added * each**2) / (spread + added * each)).clip(1)
    level = _upper(together)
    return questions / (effect * ratio) * (norm.ppf(level) / t.ppf(level, max(images - 1, 1))) ** 2


def summed_interval(
    parts: Sequence[np.ndarray],
    images: ArrayLike,
    of: Callable[[np.ndarray], Numbers],
    strata: ArrayLike | None = None,
    seed: int = 0,
) -> Interval:
    """Returns a function of sums over questions, such as F1, with a percentile bootstrap interval over images.

    A resample draws as many images as there are, with replacement. The ends are NaN if all resamples agree.

    Args:
        parts: (question, part) summands, one array per seed; seeds are resampled together and averaged.
        images: Image of each question.
        of: Maps (..., part) sums to (...) numbers; NaN where undefined, as in a resample without positives.
        strata: Stratum of each question, within which images are drawn; None means one stratum.
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


def ratio_interval(parts: ArrayLike, wholes: ArrayLike, images: ArrayLike) -> Interval:
    """Returns the sum of the parts over the sum of the wholes, with Fieller's interval over images.

    Unlike a mean of ratios, this weights each question by its whole. With the sums a_i and b_i of m images, the
    interval holds all r for which Student's t test does not reject a mean of 0 for a_i - r b_i:
    r^2 (B^2 - f S_bb) - 2 r (A B - f S_ab) + A^2 - f S_aa <= 0, where A and B are totals,
    S_xy = sum((x_i - x)(y_i - y)) and f = t^2 m / (m - 1). It is bounded if B differs significantly from 0.

    Source: Fieller 1954, Journal of the Royal Statistical Society B 16, 175.

    Args:
        parts: One part per question.
        wholes: Wholes of the same questions.
        images: Image of each question.

    Returns:
        The ratio, NaN if the wholes sum up to 0. The ends are NaN if the interval is not bounded: for one image, if
        all images have the same ratio, or if the total of the wholes does not differ significantly from 0.
    """
    (a, index), (b, _) = checked(parts, images), checked(wholes, images)
    first, second = np.bincount(index, a), np.bincount(index, b)
    m, total, base = len(first), first.sum(), second.sum()
    if abs(base) < 1e-12:
        return Interval(np.nan, np.nan, np.nan, len(a))
    ratio = float(total / base)
    if m < 2:
        return Interval(ratio, np.nan, np.nan, len(a))
    f = t.ppf(_upper(1), m - 1) ** 2 * m / (m - 1)
    (s_aa, s_ab), (_, s_bb) = np.cov(first, second, bias=True) * m
    square, linear = base**2 - f * s_bb, total * base - f * s_ab
    root = linear**2 - square * (total**2 - f * s_aa)
    if square <= 0 or root <= 1e-12 * linear**2:
        return Interval(ratio, np.nan, np.nan, len(a))
    half = np.sqrt(root)
    return Interval(ratio, float((linear - half) / square), float((linear + half) / square), len(a))


def correlation(a: np.ndarray, b: np.ndarray, seed: int = 0) -> Correlation:
    """Returns Spearman's rank correlation with a percentile bootstrap over pairs and a permutation p.

    Args:
        a: One number per trial.
        b: Another number of the same trials.
        seed: Seed of the bootstrap and the permutations.
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


def spearman(a: np.ndarray, b: np.ndarray, axis: int = -1) -> Numbers:
    """Returns Spearman's rank correlation along an axis; 0 where one side is constant."""
    a, b = np.broadcast_arrays(rankdata(a, axis=axis), rankdata(b, axis=axis))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant resamples
        result: Any = pearsonr(a, b, axis=axis)
    return np.nan_to_num(result.statistic)


def checked(values: ArrayLike, images: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns the values as floats, and the index of each question's image.

    Raises:
        ValueError: A value is NaN, there are no values, or the lengths differ.
    """
    values = np.asarray(values, float)
    _, index = np.unique(np.asarray(images), return_inverse=True)
    if values.shape != index.shape or not len(values) or np.isnan(values).any():
        raise ValueError(
            f"{values.shape} scores, {np.isnan(values).sum()} of them NaN, for the images of {index.shape} questions: "
            "expected one number per question and at least one question"
        )
    return values, index


def _between(totals: Totals) -> Numbers:
    """Returns m / (m - 1) sum((sum_i - x n_i)^2): N^2 times the variance of the ratio x = sum(sum_i) / sum(n_i)."""
    images = totals.counts.shape[-1]
    mean = totals.sums.sum(-1, keepdims=True) / totals.counts.sum(-1, keepdims=True)
    return ((totals.sums - mean * totals.counts) ** 2).sum(-1) * images / max(images - 1, 1)


def _upper(together: int) -> float:
    """Returns the quantile at the upper end of each of several intervals that hold at once."""
    return 1 - _OUTSIDE / 2 / together


def _wilson(share: Numbers, questions: Numbers, together: int) -> tuple[Numbers, Numbers]:
    low, high = proportion_confint(share * questions, questions, alpha=_OUTSIDE / together, method="wilson")
    return np.asarray(low), np.asarray(high)
