"""What intervals cover and how often tests err, in a few cells of benchmarks/test_coverage.py."""

import numpy as np
import pytest
from scipy.stats import binomtest

from benchmarks.simulated import LEAST, MOST, accuracies, differences, null_methods

SAMPLES = 1500


def surely(cell, side, limit):
    return binomtest(round(cell.coverage * cell.samples), cell.samples, limit, side).pvalue < 1e-3


@pytest.mark.parametrize(
    "cell", [(20, 0.987, 0.1), (42, 0.95, 0.3), (100, 0.987, 0.3), (200, 0.998, 0.3), (42, 0.6, 0)]
)
def test_intervals_of_accuracies_cover_what_they_claim(cell):
    (found,) = accuracies(SAMPLES, 1, [cell])
    assert not surely(found, "less", LEAST) and not surely(found, "greater", max(MOST, found.bound))


@pytest.mark.parametrize(
    ("cell", "few"),
    [
        ((20, 0.9, 0.1, 0.8, 0.02), True),
        ((42, 0.987, 0.3, 0.3, 0.02), True),
        ((100, 0.9, 0.3, 0.8, 0.06), False),
        ((200, 0.8, 0.0, 0.3, 0.06), False),
    ],
)
def test_intervals_of_differences_cover_what_they_claim(cell, few):
    (found,) = differences(SAMPLES, 1, [cell])
    assert few == (found.differing < 10)
    assert not surely(found, "less", LEAST)
    assert few or not surely(found, "greater", MOST)


def test_methods_equal_to_a_control_of_several_seeds_are_rarely_significant():
    valid, mean = (null_methods(100, 42, 5, mean=mean) for mean in (False, True))
    assert valid.single <= 0.06
    assert binomtest(round(valid.family * 100), 100, 0.06, "greater").pvalue > 0.01
    assert mean.family > 0.3  # what the mean of the seeds does


def test_the_simulation_has_its_named_parameters():
    (one,) = accuracies(4000, 2, [(20, 0.998, 0.0)])
    assert one.differing == pytest.approx(20 * (1 - np.mean(0.998 ** np.arange(1, 7))), abs=0.03)
    assert one.bound == pytest.approx(0.991, abs=0.006)  # no failure among 70 questions, or at most one
    (two,) = differences(4000, 2, [(100, 0.9, 0.3, 0.8, 0.06)])
    assert two.bound < MOST
