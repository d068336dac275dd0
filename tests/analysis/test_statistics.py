"""Every number against an oracle that was written another way: loops, closed forms, enumeration, simulation."""

from itertools import combinations, product

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm, t, ttest_1samp
from statsmodels.stats.proportion import proportion_confint

from foveate.analysis.statistics import difference_interval, mean_interval
from foveate.analysis.verdicts import holm, paired_p, side, too_few


def clustered(rng, images=60, questions=8):
    """Returns binary scores whose images differ in difficulty, and the image of each."""
    chance = rng.beta(1.5, 1.0, images).repeat(questions)
    return (rng.random(images * questions) < chance).astype(float), np.arange(images).repeat(questions)


def jackknife(scores, images):
    """Returns the jackknife variance of the mean over images, another estimator than the linearised one."""
    names = np.unique(images)
    means = np.array([scores[images != name].mean() for name in names])
    return (len(names) - 1) * means.var()


def df_corrected(n, images):
    return n * (norm.ppf(0.975) / t.ppf(0.975, images - 1)) ** 2


def score_interval(p, n):
    """Returns the values that a score test of n answers does not reject, by root finding."""

    def rejected(truth):
        return (p - truth) ** 2 - norm.ppf(0.975) ** 2 * truth * (1 - truth) / n

    low = brentq(rejected, 0, min(p, 1 - 1e-9), xtol=1e-13) if p > 0 else 0.0
    high = brentq(rejected, max(p, 1e-9), 1, xtol=1e-13) if p < 1 else 1.0
    return low, high


def test_interval_is_wilsons_at_the_effective_number_of_questions():
    rng = np.random.default_rng(0)
    scores, images = clustered(rng, images=300)
    keep = rng.random(len(scores)) < 0.7  # images with different numbers of questions
    scores, images = scores[keep], images[keep]
    result, p = mean_interval(scores, images), scores.mean()
    assert (result.mean, result.n) == (pytest.approx(p), keep.sum())
    n = df_corrected(p * (1 - p) / jackknife(scores, images), 300)
    assert n < 0.6 * keep.sum()  # images differ
    assert result[1:3] == pytest.approx(score_interval(p, n), abs=0.001)


def test_without_clusters_every_question_counts():
    scores = (np.random.default_rng(0).random(800) < 0.8).astype(float)
    n = df_corrected(800, 800)
    expected = proportion_confint(scores.mean() * n, n, method="wilson")
    assert mean_interval(scores, np.arange(800))[1:3] == pytest.approx(expected, abs=0.0005)


def test_images_that_agree_more_than_chance_are_no_reason_for_more_than_all_questions():
    images = np.arange(50).repeat(4)
    scores = np.tile([1.0, 1.0, 1.0, 0.0], 50)  # every image has exactly one failure
    assert mean_interval(scores, images)[1:3] == pytest.approx(score_interval(0.75, df_corrected(200, 50)))


@pytest.mark.parametrize(("share", "images"), [(1.0, 30), (0.0, 30), (0.5, 7), (1.0, 2)])
def test_where_all_scores_agree_the_interval_is_wilsons_over_images(share, images):
    scores = np.tile([share, share, share], images)
    result = mean_interval(scores, np.arange(images).repeat(3))
    expected = score_interval(share, df_corrected(images, images))
    assert result == pytest.approx((share, *expected, 3 * images), abs=1e-9)


def test_of_one_image_nearly_nothing_is_known():
    low, high = mean_interval([1.0, 1.0], ["a", "a"])[1:3]
    assert low < 0.01 and high == 1


def test_there_is_no_cliff_where_few_images_differ():
    images = np.arange(100).repeat(6)
    widths = []
    for failures in range(8):
        scores = np.ones(600)
        scores[: 6 * failures : 6] = 0
        _, low, high, _ = mean_interval(scores, images)
        gain = difference_interval(scores, np.ones(600), images)
        widths.append((high - low, gain.high - gain.low))
    widths = np.array(widths)
    assert (abs(np.diff(widths, axis=0) / widths[:-1]) < 0.35).all()
    assert (widths < 0.1).all()


def test_fractions_count_as_much_as_they_vary():
    rng = np.random.default_rng(6)
    scores, images = rng.choice([0.0, 0.3, 0.6, 0.9, 1.0], 900), np.arange(900) // 3
    half = t.ppf(0.975, 299) * np.sqrt(jackknife(scores, images))
    result = mean_interval(scores, images)
    assert result[1:3] == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.002)
    means = rng.normal(0.3, 0.05, 900)
    half = t.ppf(0.975, 299) * np.sqrt(jackknife(means, images))
    assert mean_interval(means, images)[1:3] == pytest.approx((means.mean() - half, means.mean() + half), abs=0.001)
    assert half < 0.005  # as if they were 0 or 1 it would be 0.03


def test_difference_is_that_of_the_paired_scores():
    rng = np.random.default_rng(1)
    one, images = clustered(rng, images=300)
    other = np.where(rng.random(len(one)) < 0.8, one, 1 - one)
    result = difference_interval(one, other, images)
    assert result.mean == pytest.approx(one.mean() - other.mean())
    half = t.ppf(0.975, 299) * np.sqrt(jackknife(one - other, images))
    assert result[1:3] == pytest.approx((result.mean - half, result.mean + half), abs=0.002)
    mirrored = difference_interval(other, one, images)
    assert (mirrored.low, mirrored.high) == pytest.approx((-result.high, -result.low))


def test_ends_of_a_difference_are_those_of_newcombe():
    """His method 10 for paired proportions, with the shares that differ; 300 images of one question each."""
    won, lost, n = 30, 12, 300
    differences = np.zeros(n)
    differences[:won], differences[won : won + lost] = 1, -1
    effective = df_corrected(n, n)
    b, c = won / n, lost / n
    (bl, bh), (cl, ch) = (proportion_confint(x * effective, effective, method="wilson") for x in (b, c))
    r = np.corrcoef(differences == 1, differences == -1)[0, 1]
    low = b - c - np.sqrt((b - bl) ** 2 - 2 * r * (b - bl) * (ch - c) + (ch - c) ** 2)
    high = b - c + np.sqrt((bh - b) ** 2 - 2 * r * (bh - b) * (c - cl) + (c - cl) ** 2)
    result = difference_interval(differences, np.zeros(n), np.arange(n))
    assert result == pytest.approx((b - c, low, high, n), abs=2e-4)


def test_a_range_is_only_a_unit():
    rng = np.random.default_rng(7)
    scores, images = rng.uniform(-1, 1, 120), np.arange(120) // 2
    whole = np.array(difference_interval(scores, np.zeros(120), images)[:3])
    twice = difference_interval(2 * scores, np.zeros(120), images, half_range=2)[:3]
    assert twice == pytest.approx(tuple(2 * whole))


@pytest.mark.parametrize("half_range", [1.0, 2.0])
def test_equal_scores_do_not_prove_a_difference_of_exactly_zero(half_range):
    result = difference_interval(np.ones(40), np.ones(40), np.arange(40), half_range=half_range)
    bound = half_range * score_interval(0.0, df_corrected(40, 40))[1]
    assert result == pytest.approx((0.0, -bound, bound, 40))


def test_without_a_range_the_interval_is_students_over_images():
    images = np.arange(4)
    assert np.isnan(difference_interval(np.full(4, 7.0), np.zeros(4), images, half_range=np.inf)[1:3]).all()
    assert np.isnan(difference_interval([7.0, 8.0], np.zeros(2), ["a", "a"], half_range=np.inf)[1:3]).all()
    values = np.array([5.0, 7.0, 9.0, 7.5])
    expected = ttest_1samp(values, 0).confidence_interval()
    assert difference_interval(values, np.zeros(4), images, half_range=np.inf)[1:3] == pytest.approx(tuple(expected))


def test_a_difference_beyond_the_range_is_named():
    with pytest.raises(ValueError, match=r"a difference of 1\.5, where at most half_range=1 was expected"):
        difference_interval([1.0, 0.5], [-0.5, 0.5], ["a", "b"])


@pytest.mark.parametrize("decimals", [9, 0])  # with whole numbers many patterns tie with the one observed
def test_p_equals_the_full_enumeration_of_signs(decimals):
    rng = np.random.default_rng(2)
    scores, baseline = (rng.random(22) + 0.3).round(decimals), rng.random(22).round(decimals)
    images = np.arange(22) // 2
    sums = np.array([(scores - baseline)[images == image].sum() for image in range(11)])
    flipped = np.array([sums @ signs for signs in product((-1, 1), repeat=11)])
    exact = np.mean(np.abs(flipped) >= abs(sums.sum()) - 1e-12)
    assert 0.001 < exact < 0.5
    assert paired_p(scores, baseline, images) == pytest.approx(exact, abs=0.005)


def test_p_is_small_for_a_clear_difference_and_one_for_none():
    images = np.arange(100)
    assert paired_p(np.ones(100), np.zeros(100), images) == pytest.approx(2.0**-99)
    scores = np.random.default_rng(8).random(100) + 1  # on no lattice: drawn
    assert paired_p(scores, np.zeros(100), images) == pytest.approx(2e-5)
    assert paired_p(np.ones(100), np.ones(100), images) == 1.0
    assert paired_p([1.0], [0.0], ["only"]) == 1.0


@pytest.mark.parametrize("decimals", [9, 1, 0])
@pytest.mark.parametrize(("own", "other"), [(1, 3), (2, 2), (3, 1)])
def test_p_against_seeds_equals_the_full_enumeration_of_which_runs_are_the_method(own, other, decimals):
    rng = np.random.default_rng(11)
    runs = rng.random((10, own + other)).round(decimals)
    runs[:, :own] = (runs[:, :own] + 0.3).round(decimals)
    images = np.arange(10) // 2
    sums = np.array([runs[images == image].sum(0) for image in range(5)])
    choices = [list(one) for one in combinations(range(own + other), own)]

    def gap(image, members):
        return image[members].mean() - np.delete(image, members).mean()

    observed = sum(gap(image, list(range(own))) for image in sums)
    possible = np.array([sum(map(gap, sums, members)) for members in product(choices, repeat=5)])
    exact = 2 * min(np.mean(possible >= observed - 1e-9), np.mean(possible <= observed + 1e-9))
    assert paired_p(runs[:, :own], runs[:, own:], images) == pytest.approx(min(exact, 1))
    assert paired_p(runs[:, own:], runs[:, :own], images) == pytest.approx(min(exact, 1))


def test_one_seed_is_a_run():
    scores, images = clustered(np.random.default_rng(3))
    assert paired_p(scores, scores[::-1, None], images) == paired_p(scores, scores[::-1], images)


def test_many_seeds_are_permuted_without_enumeration():
    rng = np.random.default_rng(12)
    runs, images = rng.integers(0, 2, (40, 20)).astype(float), np.arange(40)
    sums = np.stack([rng.permuted(runs, axis=1)[:, :10].sum() for _ in range(20_000)])
    at_least, at_most = np.mean(sums >= runs[:, :10].sum()), np.mean(sums <= runs[:, :10].sum())
    expected = min(1, 2 * min(at_least, at_most))
    assert paired_p(runs[:, :10], runs[:, 10:], images) == pytest.approx(expected, abs=0.05)


def test_the_verdict_is_by_p_alone():
    assert [side(0.1, 0.049), side(-0.1, 0.049), side(0.1, 0.05), side(0.1, np.nan), side(0.0, 0.01)] == [
        1,
        -1,
        0,
        0,
        0,
    ]


@pytest.mark.parametrize(("images", "tests", "runs"), [(4, 1, 2), (6, 1, 2), (10, 24, 2), (12, 24, 2), (3, 4, 6)])
def test_too_few_images_are_those_of_which_no_result_is_below_the_level(images, tests, runs):
    """The method is best on every image by the same difference, which is the clearest possible result."""
    p = paired_p(np.ones(images), np.zeros((images, runs - 1)), np.arange(images))
    assert bool(too_few(images, tests, runs)) == (p * tests >= 0.05)
    assert too_few(4, 1) == "Too few images for any test (n = 4)."


def test_holm_equals_the_definition_and_skips_what_was_not_tested():
    # sorted 0.01, 0.02, 0.03 times 3, 2, 1, made monotone
    assert holm([0.03, np.nan, 0.01, 0.02]) == pytest.approx([0.04, np.nan, 0.03, 0.04], nan_ok=True)
    assert np.isnan(holm([np.nan])).all()


def test_the_same_seed_gives_the_same_numbers():
    _, images = clustered(np.random.default_rng(3))
    scores = np.random.default_rng(4).random(len(images))
    assert paired_p(scores, scores[::-1], images) == paired_p(scores, scores[::-1], images)
    assert paired_p(scores, scores[::-1], images) != paired_p(scores, scores[::-1], images, seed=1)


def test_names_of_images_may_be_strings_and_their_order_does_not_matter():
    scores, images = clustered(np.random.default_rng(4))
    names = np.array([f"image-{number:03d}" for number in images], object)
    shuffle = np.random.default_rng(5).permutation(len(scores))
    assert mean_interval(scores[shuffle], names[shuffle]) == pytest.approx(mean_interval(scores, images))


@pytest.mark.parametrize(("scores", "images"), [([1.0, 0.0], ["a"]), ([], []), ([np.nan, 1.0], ["a", "b"])])
def test_bad_scores_are_named(scores, images):
    with pytest.raises(ValueError, match="one number per question"):
        mean_interval(scores, images)
