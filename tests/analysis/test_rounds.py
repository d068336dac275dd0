import numpy as np
import pytest
from scipy import stats

from foveate.analysis.rounds import Rounds, growth, mean, ratio, timed


def test_every_other_round_runs_backwards():
    called = []
    rounds = Rounds({name: lambda name=name: called.append(name) or len(called) for name in "abc"})
    rounds()
    rounds()
    assert called == ["a", "b", "c", "c", "b", "a"]
    assert rounds.measured == {"a": [1, 6], "b": [2, 5], "c": [3, 4]}


def test_a_call_is_timed_in_seconds():
    def busy():
        called.append(1)

    called = []
    assert 0 < timed(busy)() < 1
    assert called == [1]


def test_a_ratio_is_that_of_the_same_round_with_students_interval_of_the_logarithms():
    full, times = [10.0, 20.0, 10.0, 40.0], [8.0, 18.0, 7.0, 30.0]
    logs = np.log(np.array(times) / full)
    half = stats.t.ppf(0.975, 3) * logs.std(ddof=1) / 2
    found = ratio(times, full, scale=3)
    assert found.value == pytest.approx(3 * stats.gmean(np.array(times) / full))
    assert (found.low, found.high) == pytest.approx((3 * np.exp(logs.mean() - half), 3 * np.exp(logs.mean() + half)))
    assert found.n == 4
    assert found.p == pytest.approx(stats.ttest_rel(np.log(times), np.log(full)).pvalue)


def test_a_single_round_has_no_interval():
    found = mean([3.0])
    assert found.value == 3 and found.n == 1
    assert np.isnan([found.low, found.high, found.p]).all()


def test_intervals_hold_the_truth_in_95_of_100_cases():
    rng = np.random.default_rng(0)
    found = [ratio(*np.exp(rng.normal(0, 0.2, (2, 5)))) for _ in range(2000)]
    assert 0.935 < np.mean([low <= 1 <= high for _, low, high, _, _ in found]) < 0.965


@pytest.mark.parametrize("power", [1, 2])
def test_growth_is_the_exponent_whatever_the_factor_of_a_round(power):
    sizes, rounds = [577, 1025, 2305], [(1.0, power - 0.1), (3.0, power), (0.5, power + 0.1)]
    found = growth(sizes, [[factor * size**exponent for factor, exponent in rounds] for size in sizes])
    assert found.value == pytest.approx(power) and found.n == 3
    assert found.low < power - 0.1 and power + 0.1 < found.high
