"""The one-sided test of a loss: exact cases, and its errors in simulated worlds."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from foveate.studies import non_inferiority
from foveate.studies.non_inferiority import (
    Losses,
    fewest_images,
    images_needed,
    losses_of,
    p_value,
    smallest_loss,
    upper_bound,
)


def one_question(lost):
    return Losses(np.asarray(lost, float), np.ones(len(lost)))


@pytest.mark.parametrize(("images", "max_loss"), [(60, 0.05), (300, 0.01), (300, 0.0095)])
def test_without_any_loss_p_is_that_of_the_binomial_distribution(images, max_loss):
    found = p_value(one_question(np.zeros(images)), max_loss)
    assert found == pytest.approx((1 - max_loss) ** images, abs=4 * np.sqrt(0.05 / non_inferiority.RESAMPLES))


@pytest.mark.parametrize(("lost", "images", "max_loss"), [(3, 200, 0.05), (1, 400, 0.02), (8, 150, 0.1)])
def test_with_losses_only_p_is_near_that_of_the_exact_binomial_test(lost, images, max_loss):
    exact = binom.cdf(lost, images, max_loss)
    found = p_value(one_question([1] * lost + [0] * (images - lost)), max_loss)
    assert exact == pytest.approx(found, abs=0.01)


def test_many_images_give_the_p_of_the_normal_distribution():
    rng = np.random.default_rng(0)
    lost = rng.choice([-1.0, 0.0, 1.0], 4000, p=[0.1, 0.75, 0.15])
    z = (lost.mean() - 0.065) / (lost.std() / np.sqrt(4000))
    from scipy.stats import norm

    assert p_value(one_question(lost), 0.065) == pytest.approx(norm.cdf(z), abs=0.02)


def test_a_loss_as_large_as_accepted_is_never_confirmed():
    assert p_value(one_question([1] * 5 + [0] * 95), 0.05) == 1
    assert p_value(one_question([1] * 6 + [0] * 94), 0.05) == 1


@pytest.mark.guards("recommendation: questions about one image count as independent")
def test_questions_about_one_image_are_no_more_evidence_than_the_image():
    once = one_question([1] * 4 + [0] * 96)
    seven = Losses(7 * once.lost, 7 * once.questions)
    assert p_value(seven, 0.1) == pytest.approx(p_value(once, 0.1), abs=0.002)


def test_the_bound_is_where_the_test_begins_to_reject():
    losses = one_question([1] * 4 + [-1] * 2 + [0] * 194)
    bound = upper_bound(losses, 0.95)
    assert p_value(losses, bound + 0.001) <= 0.05 < p_value(losses, bound - 0.001)
    assert upper_bound(one_question(np.zeros(300)), 0.95) == pytest.approx(1 - 0.05 ** (1 / 300), abs=5e-4)
    assert upper_bound(one_question(np.ones(20)), 0.95) == 1


def test_losses_are_summed_by_image_in_the_order_of_the_images():
    found = losses_of([1, 1, 0, 1], [0, 1, 0.5, 1], ["b", "b", "a", "c"])
    assert found.lost.tolist() == [1, -0.5, 0]
    assert found.questions.tolist() == [2, 1, 1]
    assert found.mean == 0.125


def test_the_fewest_images_are_those_with_which_no_loss_at_all_is_confirmed():
    least = fewest_images(0.02, 0.95)
    assert p_value(one_question(np.zeros(least + 15)), 0.02) < 0.05 < p_value(one_question(np.zeros(least - 15)), 0.02)
    assert smallest_loss(least, 0.95) <= 0.02 < smallest_loss(least - 1, 0.95)


def test_as_many_images_as_are_said_to_be_needed_have_the_power_that_is_said():
    rng = np.random.default_rng(1)
    rates = [0.02, 0.93, 0.05]  # gains, equal, losses: a loss of 3 points
    spread = one_question(rng.choice([-1.0, 0.0, 1.0], 20_000, p=rates)).spread
    needed = images_needed(0.06, 0.95, spread, 0.03)
    draws = rng.choice([-1.0, 0.0, 1.0], (400, needed), p=rates)
    power = np.mean([p_value(one_question(lost), 0.06) <= 0.05 for lost in draws])
    assert 0.7 < power < 0.9


def world(rng, images, kind):
    """Draws losses by image; the expected loss per question is 3 points."""
    questions = 1 + rng.poisson(3, images) if kind == "clustered" else np.ones(images, int)
    lost, won = {"losses": (0.03, 0.0), "both": (0.08, 0.05), "clustered": (0.05, 0.02)}[kind]
    if kind == "clustered":
        down, up = (rng.beta(rate * 7 / 3, (1 - rate) * 7 / 3, images) for rate in (lost, won / (1 - lost)))
    else:
        down, up = np.full(images, lost), np.full(images, won / (1 - lost))
    losses = rng.binomial(questions, down)
    return Losses((losses - rng.binomial(questions - losses, up)).astype(float), questions.astype(float))


@pytest.mark.parametrize("kind", ["losses", "both", "clustered"])
@pytest.mark.parametrize("images", [100, 300])
@pytest.mark.guards("recommendation: p is that of the observed weights, without the null hypothesis")
def test_a_loss_at_the_margin_is_confirmed_in_five_of_a_hundred_worlds_at_most(images, kind, monkeypatch):
    monkeypatch.setattr(non_inferiority, "RESAMPLES", 499)
    rng, worlds = np.random.default_rng(2), 1000
    wrong = sum(p_value(world(rng, images, kind), 0.03) <= 0.05 for _ in range(worlds))
    assert binomtest(wrong, worlds, 0.05, alternative="greater").pvalue > 0.01
