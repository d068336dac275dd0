"""Every number against an oracle that was written another way: loops, closed forms, enumeration, simulation."""

from itertools import product

import numpy as np
import pytest

from analysis.statistics import difference_interval, holm, mean_interval, paired_p


def clustered(rng, images=60, questions=8):
    """Binary scores whose images differ in difficulty, and the image of each."""
    chance = rng.beta(1.5, 1.0, images).repeat(questions)
    return (rng.random(images * questions) < chance).astype(float), np.arange(images).repeat(questions)


def bootstrap_by_loop(scores, images, resamples=4000):
    rng = np.random.default_rng(99)
    groups = [scores[images == image] for image in np.unique(images)]
    means = [
        np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))]).mean() for _ in range(resamples)
    ]
    return np.quantile(means, [0.025, 0.975])


def wilson(p, n, z=1.959963984540054):
    centre, spread = (p + z**2 / (2 * n)), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (centre - spread) / (1 + z**2 / n), (centre + spread) / (1 + z**2 / n)


def test_mean_and_interval_equal_a_bootstrap_written_as_a_loop():
    rng = np.random.default_rng(0)
    scores, images = clustered(rng)
    keep = rng.random(len(scores)) < 0.7  # images with different numbers of questions
    result = mean_interval(scores[keep], images[keep])
    assert result.mean == pytest.approx(scores[keep].mean())
    assert result.n == keep.sum()
    assert result[1:3] == pytest.approx(bootstrap_by_loop(scores[keep], images[keep]), abs=0.01)


def test_with_one_question_per_image_the_interval_is_nearly_the_normal_one():
    scores = np.random.default_rng(0).random(800)
    half = 1.96 * scores.std() / np.sqrt(800)
    result = mean_interval(scores, np.arange(800))
    assert result[1:3] == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.003)


def test_interval_over_images_covers_the_truth_where_one_over_questions_does_not():
    truth, covered, naive = 0.6, 0, 0  # beta(1.5, 1) has mean 0.6
    for seed in range(120):
        scores, images = clustered(np.random.default_rng(seed))
        _, low, high, _ = mean_interval(scores, images)
        covered += low <= truth <= high
        half = 1.96 * np.sqrt(scores.mean() * (1 - scores.mean()) / len(scores))
        naive += abs(scores.mean() - truth) <= half
    assert covered / 120 >= 0.9
    assert naive / 120 < 0.85


@pytest.mark.parametrize(("share", "images"), [(1.0, 30), (0.0, 30), (0.5, 7), (1.0, 1)])
def test_where_all_images_agree_the_interval_is_wilsons_over_images(share, images):
    scores = np.tile([share, share, share], images)
    result = mean_interval(scores, np.arange(images).repeat(3))
    assert result == pytest.approx((share, *wilson(share, images), 3 * images), abs=1e-9)


def test_difference_is_that_of_the_paired_scores():
    rng = np.random.default_rng(1)
    one, images = clustered(rng)
    other = np.where(rng.random(len(one)) < 0.8, one, 1 - one)
    result = difference_interval(one, other, images)
    assert result.mean == pytest.approx(one.mean() - other.mean())
    assert result[1:3] == pytest.approx(bootstrap_by_loop(one - other, images), abs=0.01)
    mirrored = difference_interval(other, one, images)
    assert (mirrored.low, mirrored.high) == pytest.approx((-result.high, -result.low), abs=0.005)


def test_equal_scores_do_not_prove_a_difference_of_exactly_zero():
    result = difference_interval(np.ones(40), np.ones(40), np.arange(40))
    bound = wilson(0.0, 40)[1]
    assert result == pytest.approx((0.0, -bound, bound, 40))


@pytest.mark.parametrize("half_range", [1.0, 2.0])
@pytest.mark.parametrize("same", [-1.0, -0.3, 0.0, 0.75, 1.0])
def test_what_all_images_agree_on_is_as_wrong_as_unseen_images_can_make_it(same, half_range):
    images = np.arange(12).repeat(2)
    scores = 0.5 + np.full(24, same) + np.tile([0.0, 0.2], 12) * (half_range > 1)  # questions differ, images do not
    result = difference_interval(scores, np.full(24, 0.5 + 0.1 * (half_range > 1)), images, half_range=half_range)
    unseen = wilson(0.0, 12)[1]
    shares, others = np.meshgrid(np.linspace(0, unseen, 201), np.linspace(-half_range, half_range, 201))
    worlds = (1 - shares) * same + shares * others  # a share of all images has any other difference
    assert result == pytest.approx((same, worlds.min(), worlds.max(), 24))


def test_without_a_range_nothing_is_known_of_unseen_images():
    images = np.arange(4)
    assert np.isnan(difference_interval(np.full(4, 7.0), np.zeros(4), images, half_range=np.inf)[1:3]).all()
    spread = difference_interval([5.0, 7.0, 9.0, 7.0], np.zeros(4), images, half_range=np.inf)
    assert 5 <= spread.low < 7 < spread.high <= 9


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
    assert paired_p(np.ones(100), np.zeros(100), images) == pytest.approx(2e-5)
    assert paired_p(np.ones(100), np.ones(100), images) == 1.0
    assert paired_p([1.0], [0.0], ["only"]) == 1.0


def test_holm_equals_the_definition_and_skips_what_was_not_tested():
    # sorted 0.01, 0.02, 0.03 times 3, 2, 1, made monotone
    assert holm([0.03, np.nan, 0.01, 0.02]) == pytest.approx([0.04, np.nan, 0.03, 0.04], nan_ok=True)
    assert np.isnan(holm([np.nan])).all()


def test_the_same_seed_gives_the_same_numbers():
    scores, images = clustered(np.random.default_rng(3))
    assert mean_interval(scores, images) == mean_interval(scores, images)
    assert mean_interval(scores, images) != mean_interval(scores, images, seed=1)
    assert paired_p(scores, scores[::-1], images) == paired_p(scores, scores[::-1], images)


def test_names_of_images_may_be_strings_and_their_order_does_not_matter():
    scores, images = clustered(np.random.default_rng(4))
    names = np.array([f"image-{number:03d}" for number in images], object)
    shuffle = np.random.default_rng(5).permutation(len(scores))
    assert mean_interval(scores[shuffle], names[shuffle]) == pytest.approx(mean_interval(scores, images))


@pytest.mark.parametrize(("scores", "images"), [([1.0, 0.0], ["a"]), ([], []), ([np.nan, 1.0], ["a", "b"])])
def test_bad_scores_are_named(scores, images):
    with pytest.raises(ValueError, match="one number per question"):
        mean_interval(scores, images)
