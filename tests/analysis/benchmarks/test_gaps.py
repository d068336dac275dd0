"""Gaps between runs against scipy, other formulas and brute force over all swaps."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap

from foveate.analysis.benchmarks import gaps
from foveate.analysis.benchmarks.gaps import Gap, averaged, gap, p_of
from foveate.analysis.statistics import Interval, difference_interval
from foveate.analysis.verdicts import paired_p
from foveate.metrics.benchmarks import ACCURACY, measures_of

F1 = measures_of("pope")[0]


def run(right: np.ndarray, yes: np.ndarray, per_image: int = 3) -> pd.DataFrame:
    """Answers to questions about images, three each, of the three sets of POPE."""
    n = len(right)
    predicted = np.where(right, yes, ~yes)
    return pd.DataFrame(
        {
            "sample_id": [f"{k:03d}" for k in range(n)],
            "image_id": [f"i{k // per_image:03d}" for k in range(n)],
            "kind": [("random", "popular", "adversarial")[k % 3] for k in range(n)],
            "reference": np.where(yes, "yes", "no"),
            "prediction": np.where(predicted, "Yes", "No"),
            "score": right.astype(float),
        }
    )


def two_runs(images: int, skills: tuple[float, float], seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    yes = rng.random(3 * images) < 0.5
    one, other = (run(rng.random(3 * images) < skill, yes) for skill in skills)
    return one, other


def mean_f1(frame: pd.DataFrame) -> float:
    found = []
    for _, some in frame.groupby("kind"):
        predicted, true = some["prediction"] == "Yes", some["reference"] == "yes"
        found.append(2 * (predicted & true).sum() / (predicted.sum() + true.sum()))
    return float(np.mean(found))


def test_the_gap_of_a_mean_is_the_paired_difference_with_its_interval():
    one, other = two_runs(40, (0.9, 0.6))
    assert gap(ACCURACY, one, other).interval == difference_interval(one["score"], other["score"], one["image_id"])


def test_the_gap_in_f1_is_that_of_both_runs_and_its_interval_scipys():
    one, other = two_runs(60, (0.9, 0.6))
    found = gap(F1, one, other).interval
    assert found.mean == pytest.approx(mean_f1(one) - mean_f1(other))
    images = [(one[one["image_id"] == name], other[other["image_id"] == name]) for name in one["image_id"].unique()]

    def statistic(chosen: np.ndarray) -> float:
        sides = [pd.concat([images[int(i)][side] for i in chosen]) for side in (0, 1)]
        return mean_f1(sides[0]) - mean_f1(sides[1])

    drawn = bootstrap(
        (np.arange(len(images)),),
        statistic,
        vectorized=False,
        n_resamples=300,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((drawn.low, drawn.high), abs=0.04)


@pytest.mark.parametrize("measure", [ACCURACY, F1], ids=lambda measure: measure.name)
def test_p_equals_that_of_all_swaps(measure):
    one, other = two_runs(9, (0.95, 0.6), seed=3)

    def of(frame: pd.DataFrame) -> float:
        return frame["score"].mean() if measure is ACCURACY else mean_f1(frame)

    observed, extreme = abs(of(one) - of(other)), 0
    names = one["image_id"].unique()
    for swaps in itertools.product((False, True), repeat=len(names)):
        moved = one["image_id"].isin(names[list(swaps)]).to_numpy()
        sides = [
            a.assign(**{name: np.where(moved, b[name], a[name]) for name in ("prediction", "score")})
            for a, b in ((one, other), (other, one))
        ]
        extreme += abs(of(sides[0]) - of(sides[1])) >= observed - 1e-9
    exact = extreme / 2 ** len(names)
    found = p_of([gap(measure, one, other)])
    assert 0 < exact < 0.5
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / gaps.DRAWS))


def test_p_of_a_mean_score_equals_the_exact_test_of_the_other_tables():
    one, other = two_runs(40, (0.85, 0.7))
    exact = paired_p(one["score"], other["score"], one["image_id"])
    assert p_of([gap(ACCURACY, one, other)]) == pytest.approx(exact, abs=0.02)


def test_p_of_an_average_uses_all_benchmarks():
    pairs = [two_runs(12, (0.8, 0.62), seed) for seed in (1, 2, 3)]
    found = [gap(ACCURACY, one, other, seed) for seed, (one, other) in enumerate(pairs)]
    whole = [pd.concat([side.assign(image_id=f"{i}" + side["image_id"]) for i, side in enumerate(sides)])
             for sides in zip(*pairs, strict=True)]  # fmt: skip
    exact = paired_p(whole[0]["score"], whole[1]["score"], whole[0]["image_id"])  # of equally many questions each
    assert p_of(found) == pytest.approx(exact, abs=0.02)
    assert p_of(found) < min(p_of([one]) for one in found)


def test_equal_runs_have_no_gap():
    one, _ = two_runs(10, (0.8, 0.5))
    found = gap(F1, one, one)
    assert found.interval.mean == 0 and p_of([found]) == 1


def test_images_with_the_same_names_and_seed_are_swapped_alike():
    one, other = two_runs(20, (0.9, 0.6))
    first, second = (gap(ACCURACY, one, other, seed).swapped for seed in (4, 4))
    np.testing.assert_array_equal(first, second)
    assert abs(np.corrcoef(first, gap(ACCURACY, one, other, 5).swapped)[0, 1]) < 0.05


def test_a_draw_without_a_number_counts_as_extreme():
    one = Gap(Interval(0.1, 0.0, 0.2, 10), np.array([np.nan, 0.0, -0.1, 0.05]), 5)
    assert p_of([one]) == 3 / 5


def test_runs_on_other_questions_are_refused():
    one, other = two_runs(3, (0.5, 0.5))
    with pytest.raises(ValueError, match="runs of 9 and 8 questions are not about the same ones"):
        gap(ACCURACY, one, other.iloc[1:])


def test_the_interval_of_an_average_covers_a_sum_of_independent_normal_numbers():
    rng = np.random.default_rng(0)
    spreads, covered = np.array([0.5, 1.0, 2.0]), 0
    for _ in range(2000):
        means = rng.normal(0, spreads)
        intervals = {
            str(i): Interval(m, m - 1.96 * s, m + 1.96 * s, 5)
            for i, (m, s) in enumerate(zip(means, spreads, strict=True))
        }
        found = averaged(intervals, {})
        covered += found.low <= 0 <= found.high
    assert covered / 2000 == pytest.approx(0.95, abs=0.02)
    assert found.n == 15 and found.mean == pytest.approx(means.mean())


def test_ends_of_benchmarks_with_the_same_questions_are_added_as_they_are():
    one, other, third = Interval(0.5, 0.4, 0.6, 10), Interval(0.3, 0.2, 0.4, 10), Interval(0.1, 0.0, 0.2, 10)
    together = averaged({"a": one, "b": other}, {"b": "a"})
    assert (together.low, together.high) == (pytest.approx(0.3), pytest.approx(0.5))
    three = averaged({"a": one, "b": other, "c": third}, {"b": "a"})
    assert three.high - three.mean == pytest.approx(np.sqrt(0.2**2 + 0.1**2) / 3)
    assert np.isnan(averaged({"a": one, "b": Interval(0.3, np.nan, np.nan, 4)}, {}).low)
