"""Fieller's interval against the definition by inversion, limits, and its coverage on made data."""

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq

from foveate.analysis.statistics import ratio_interval


def inverted(a: np.ndarray, b: np.ndarray, start: float) -> tuple[float, float]:
    """Returns the ratios at which the t test of a - r b over images is just significant, by bisection."""

    def excess(r: float) -> float:
        return stats.ttest_1samp(a - r * b, 0).pvalue - 0.05

    return brentq(excess, start - 5, start), brentq(excess, start, start + 5)


@pytest.mark.parametrize("images", [5, 20, 60])
def test_the_interval_has_the_ratios_that_a_t_test_over_images_does_not_refute(images):
    rng = np.random.default_rng(images)
    sizes = rng.integers(1, 5, images)
    index = np.repeat(np.arange(images), sizes)
    whole = rng.exponential(1, sizes.sum()) + 0.2
    part = whole * rng.random(sizes.sum())
    found = ratio_interval(part, whole, index)
    a, b = np.bincount(index, part), np.bincount(index, whole)
    assert found.mean == pytest.approx(a.sum() / b.sum())
    assert found[1:3] == pytest.approx(inverted(a, b, found.mean), abs=1e-6)
    assert found.n == sizes.sum()


def test_with_a_whole_of_one_it_is_students_interval_of_the_mean():
    values = np.random.default_rng(0).normal(2, 1, 30)
    found = ratio_interval(values, np.ones(30), np.arange(30))
    low, high = stats.t.interval(0.95, 29, values.mean(), stats.sem(values))
    assert found == pytest.approx((values.mean(), low, high, 30))


def test_there_is_no_interval_where_nothing_bounds_it():
    a, images = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0, 0, 1, 1])
    for parts, wholes, where, mean in (
        (a, a * 2, images, 0.5),  # all images agree
        (a, np.ones(4), np.zeros(4), 2.5),  # one image
        (a, np.array([5.0, -4.0, 4.0, -4.0]), np.arange(4), 10.0),  # the wholes may sum up to 0
    ):
        found = ratio_interval(parts, wholes, where)
        assert found.mean == pytest.approx(mean)
        assert np.isnan(found[1:3]).all()
    assert np.isnan(ratio_interval(a, np.zeros(4), images).mean)


@pytest.mark.parametrize(("images", "least"), [(20, 0.92), (42, 0.93), (100, 0.935)])
def test_of_skewed_worths_that_many_questions_lack_it_covers_the_true_ratio(images, least):
    """Three quarters of the questions have no worth, the others an exponential one; images differ in difficulty."""
    rng, hits, runs, true = np.random.default_rng(images), 0, 2000, 0.3
    index = np.repeat(np.arange(images), 12)
    for _ in range(runs):
        ease = np.repeat(rng.uniform(0.5, 1.5, images), 12)
        whole = rng.exponential(1, len(index)) * ease * (rng.random(len(index)) < 0.25)
        part = whole * rng.beta(0.6, 1.4, len(index))  # of mean 0.3
        found = ratio_interval(part, whole, index)
        hits += found.low <= true <= found.high
    assert least <= hits / runs <= 0.97
