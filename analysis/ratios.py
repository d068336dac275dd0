"""Ratios of sums over questions, with intervals over images."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t

from analysis.statistics import Interval, checked

_LEVEL = 0.975


def ratio_interval(parts: ArrayLike, wholes: ArrayLike, images: ArrayLike) -> Interval:
    """Returns the sum of the parts over that of the wholes, with Fieller's interval over images.

    Unlike a mean of ratios, this weighs each question by its whole, so one with next to nothing adds next to nothing.
    With the sums a_i and b_i of m images, the interval has all r for which the mean of a_i - r b_i is not shown to
    differ from 0 by Student's t: r^2 (B^2 - f S_bb) - 2 r (A B - f S_ab) + A^2 - f S_aa <= 0, where A and B are totals,
    S_xy = sum((x_i - x)(y_i - y)) and f = t^2 m / (m - 1). It is bounded where the total of the wholes differs from 0.

    Source: Fieller 1954, Journal of the Royal Statistical Society B 16, 175.

    Args:
        parts: One per question.
        wholes: Of the same questions.
        images: The image of each question.

    Returns:
        The ratio, NaN where the wholes sum up to 0. The ends are NaN where there is no bounded interval: of one image,
        where all images have the same ratio, or where the total of the wholes is not shown to differ from 0.
    """
    (a, index), (b, _) = checked(parts, images), checked(wholes, images)
    first, second = np.bincount(index, a), np.bincount(index, b)
    m, total, base = len(first), first.sum(), second.sum()
    if abs(base) < 1e-12:
        return Interval(np.nan, np.nan, np.nan, len(a))
    ratio = float(total / base)
    if m < 2:
        return Interval(ratio, np.nan, np.nan, len(a))
    f = t.ppf(_LEVEL, m - 1) ** 2 * m / (m - 1)
    (s_aa, s_ab), (_, s_bb) = np.cov(first, second, bias=True) * m
    square, linear = base**2 - f * s_bb, total * base - f * s_ab
    root = linear**2 - square * (total**2 - f * s_aa)
    if square <= 0 or root <= 1e-12 * linear**2:
        return Interval(ratio, np.nan, np.nan, len(a))
    half = np.sqrt(root)
    return Interval(ratio, float((linear - half) / square), float((linear + half) / square), len(a))
