"""Intervals and tests in which the image, not the question, is the independent unit.

Questions about one image share what was kept of it, so their scores are not independent. Everything here counts,
draws or permutes whole images. Scores and images are aligned arrays, one element per question.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, t
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

SIGNIFICANT = 0.05
RESAMPLES = 2000
ROUNDING = 1e-6  # by so much a value may leave its range
DRAWS = 99_999  # the smallest p drawn is 2 / 100,000: small enough to survive Holm's correction over 2,000 tests

_LEVEL = 0.975
_PRIOR = 0.25  # images that differ in all their questions, added to the design effect
_LATTICE = (1, 2, 3, 4, 6, 10, 12, 30, 60)  # denominators of scores that are tested exactly
_MOST = 1000  # ways to choose the runs of a side
_EXACT = 200_000_000  # additions that an exact test may take, about half a second


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
    values, index = _checked(values, images)
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


def paired_p(scores: ArrayLike, baseline: ArrayLike, images: ArrayLike, seed: int = 0) -> float:
    """Returns the two-sided p of no difference between two sides on the same questions: a permutation test over images.

    Each side is one run or several, such as the seeds of a control. Without a difference all runs of both sides are
    exchangeable within an image, so each image may have had any a of its a + b runs on the first side. The statistic
    is T, the mean over the runs of the first side less that of the second, summed over the questions;
    p = 2 min(P(T* >= T), P(T* <= T)), at most 1. Of two single runs this is the sign-flip test. Permuting against the
    mean of several seeds instead is not valid: that mean varies less than a run, so its differences are skewed.

    The distribution of T is exact where its values lie on a lattice, as those of scores that are multiples of 1/60
    do, and where there are at most `DRAWS` arrangements. Otherwise `DRAWS` are drawn, and 1 is added to both counts.
    Source: Fisher 1935, The Design of Experiments, section 21; Phipson and Smyth 2010 (arXiv 1603.05766v1).

    Args:
        scores: (question) scores of one run, or (question, run).
        baseline: Of the same questions, likewise.
        images: The image of each question.
        seed: Seed of the draws.
    """
    first, second = (np.asarray(side, float) for side in (scores, baseline))
    first, second = (side[:, None] if side.ndim == 1 else side for side in (first, second))
    runs = np.concatenate([first, second], 1)
    sums = np.stack([np.bincount(index, values) for values, index in (_checked(run, images) for run in runs.T)], 1)
    own, other = first.shape[1], second.shape[1]
    chosen = _arrangements(own, other, seed)
    weights = chosen / own - (1 - chosen) / other
    possible = sums @ weights.T
    possible = possible[np.ptp(possible, 1) > 1e-9]  # elsewhere nothing changes
    if not len(possible):
        return 1.0
    at_least, at_most = _tails(possible, own * other, seed)
    return float(min(1.0, 2 * min(at_least, at_most)))


def holm(p_values: ArrayLike) -> np.ndarray:
    """Returns Holm's step-down correction (Holm 1979) of the p values that are not NaN; NaN stays NaN."""
    corrected = np.array(p_values, float)
    tested = ~np.isnan(corrected)
    if tested.any():
        corrected[tested] = multipletests(corrected[tested], method="holm")[1]
    return corrected


def side(difference: float, p: float) -> int:
    """Returns the verdict on a difference: 1 for above, -1 for below, 0 if none is shown.

    This is the only criterion: the corrected p, never the interval, which nothing corrects.

    Args:
        difference: Of two means.
        p: Corrected for all tests of the table or the sentence; NaN where nothing was tested.
    """
    return int(np.sign(difference)) if p < SIGNIFICANT else 0


def too_few(images: int, tests: int, runs: int = 2) -> str:
    """Returns why no verdict is possible with so few images, or nothing if one is.

    Args:
        images: Number of images.
        tests: Number of tests that are corrected together.
        runs: Runs of both sides: 2, or 1 + k against k seeds.
    """
    smallest = 2 * float(runs) ** -images * max(tests, 1)
    return "" if smallest < SIGNIFICANT else f"Too few images for any test (n = {images:,})."


def _checked(values: ArrayLike, images: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns the values as numbers, and the number of the image of each."""
    values = np.asarray(values, float)
    _, index = np.unique(np.asarray(images), return_inverse=True)
    if values.shape != index.shape or not len(values) or np.isnan(values).any():
        raise ValueError(
            f"{values.shape} scores, {np.isnan(values).sum()} of them NaN, for the images of {index.shape} questions: "
            "expected one number per question and at least one question"
        )
    return values, index


def _arrangements(own: int, other: int, seed: int) -> np.ndarray:
    """Returns one row per way to choose the runs of the first side, 1 where chosen; the first is what was observed.

    Of more than `_MOST` ways so many are drawn.
    """
    runs, ways = own + other, comb(own + other, own)
    if ways > _MOST:
        order = np.random.default_rng(seed).permuted(np.tile(np.arange(runs), (_MOST, 1)), axis=1)
        members = np.vstack([np.arange(own), order[1:, :own]])
    else:
        members = np.array(list(combinations(range(runs), own)))
    chosen = np.zeros((len(members), runs))
    np.put_along_axis(chosen, members, 1, axis=1)
    return chosen


def _between(totals: Totals) -> np.ndarray:
    """Returns m / (m - 1) sum((sum_i - x n_i)^2): N^2 times the variance of the ratio x = sum(sum_i) / sum(n_i)."""
    images = totals.counts.shape[-1]
    mean = totals.sums.sum(-1, keepdims=True) / totals.counts.sum(-1, keepdims=True)
    return ((totals.sums - mean * totals.counts) ** 2).sum(-1) * images / max(images - 1, 1)


def _wilson(share: np.ndarray, questions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = proportion_confint(share * questions, questions, method="wilson")
    return np.asarray(low), np.asarray(high)


def _tails(possible: np.ndarray, scale: int, seed: int) -> tuple[float, float]:
    """Returns P(T* >= T) and P(T* <= T), T* the sum over images of one of the possible values, T that of the first."""
    images, arrangements = possible.shape
    for denominator in _LATTICE:
        steps = possible * scale * denominator
        steps -= steps.min(1, keepdims=True)
        if np.abs(steps - steps.round()).max() > 1e-6:
            continue
        whole = steps.round().astype(int)
        if whole.max(1).sum() * possible.size > _EXACT:
            break
        chance = np.ones(1)
        for image in whole:
            longer = np.zeros(len(chance) + image.max())
            for step, times in zip(*np.unique(image, return_counts=True), strict=True):
                longer[step : step + len(chance)] += chance * (times / arrangements)
            chance = longer
        observed = whole[:, 0].sum()
        return float(chance[observed:].sum()), float(chance[: observed + 1].sum())
    observed, tie = possible[:, 0].sum(), 1e-9 * np.abs(possible).sum()
    if arrangements**images <= DRAWS:
        drawn = np.zeros(1)
        for image in possible:
            drawn = np.add.outer(drawn, image).ravel()
        return float(np.mean(drawn >= observed - tie)), float(np.mean(drawn <= observed + tie))
    rng, rows, counts = np.random.default_rng(seed), np.arange(images), np.ones(2)
    for start in range(0, DRAWS, 1000):  # bounds the memory at 1,000 x images
        size = (min(1000, DRAWS - start), images)
        drawn = possible[rows, rng.integers(0, arrangements, size, np.uint8 if arrangements < 256 else int)].sum(1)
        counts += (drawn >= observed - tie).sum(), (drawn <= observed + tie).sum()
    return float(counts[0] / (DRAWS + 1)), float(counts[1] / (DRAWS + 1))
