"""Permutation tests between paired runs, and the criterion for a verdict.

Scores and images are aligned arrays, one element per question.
"""

from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import ArrayLike
from statsmodels.stats.multitest import multipletests

from foveate.analysis.statistics import checked

SIGNIFICANT = 0.05
DRAWS = 99_999  # the smallest p is 2 / 100,000, which survives Holm's correction over 2,000 tests

_LATTICE = (1, 2, 3, 4, 6, 10, 12, 30, 60)  # denominators of scores that are tested exactly
_MOST = 1000  # ways to choose the runs of a side
_EXACT = 200_000_000  # additions of an exact test, about half a second


def paired_p(scores: ArrayLike, baseline: ArrayLike, images: ArrayLike, seed: int = 0) -> float:
    """Returns the two-sided p of no difference between two sides on the same questions: a permutation test over images.

    Each side has one run or several, such as the seeds of a control. Under the null hypothesis all runs of both sides
    are exchangeable within an image, so any a of the a + b runs may form the first side. The statistic T is the mean
    over the runs of the first side minus that of the second, summed over the questions;
    p = 2 min(P(T* >= T), P(T* <= T)), at most 1. For two single runs this is the sign-flip test. Permuting against the
    mean of several seeds is not valid: that mean varies less than a run, so its differences are skewed.

    The distribution of T is exact if its values lie on a lattice, as for scores that are multiples of 1/60, or if
    there are at most `DRAWS` arrangements. Otherwise `DRAWS` are drawn, and 1 is added to both counts.
    Source: Fisher 1935, The Design of Experiments, section 21; Phipson and Smyth 2010 (arXiv 1603.05766v1).

    Args:
        scores: (question) scores of one run, or (question, run) of several.
        baseline: Baseline scores of the same questions, in one of these shapes.
        images: Image of each question.
        seed: Seed of the draws.
    """
    first, second = (np.asarray(side, float) for side in (scores, baseline))
    first, second = (side[:, None] if side.ndim == 1 else side for side in (first, second))
    runs = np.concatenate([first, second], 1)
    sums = np.stack([np.bincount(index, values) for values, index in (checked(run, images) for run in runs.T)], 1)
    own, other = first.shape[1], second.shape[1]
    chosen = _arrangements(own, other, seed)
    weights = chosen / own - (1 - chosen) / other
    possible = sums @ weights.T
    possible = possible[np.ptp(possible, 1) > 1e-9]  # other images do not change T
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
    """Returns the sign of a significant difference: 1, -1, or 0 if it is not significant.

    The corrected p is the only criterion, never the interval, which is not corrected.

    Args:
        difference: Difference of two means.
        p: p value, corrected over all tests of the table; NaN if not tested.
    """
    return int(np.sign(difference)) if p < SIGNIFICANT else 0


def too_few(images: int, tests: int, runs: int = 2) -> str:
    """Returns the reason why so few images allow no verdict, or an empty string if they allow one.

    Args:
        images: Number of images.
        tests: Number of tests that are corrected together.
        runs: Number of runs of both sides: 2, or 1 + k against k seeds.
    """
    smallest = 2 * float(runs) ** -images * max(tests, 1)
    return "" if smallest < SIGNIFICANT else f"Too few images for any test (n = {images:,})."


def _arrangements(own: int, other: int, seed: int) -> np.ndarray:
    """Returns one row per way to choose the runs of the first side, 1 where chosen; the first row is the observed one.

    If there are more than `_MOST` ways, `_MOST` are drawn.
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


def _tails(possible: np.ndarray, scale: int, seed: int) -> tuple[float, float]:
    """Returns P(T* >= T) and P(T* <= T).

    T* is the sum over images of one possible value each, T the sum of the first values.
    """
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
