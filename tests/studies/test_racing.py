"""The guarantee of a recommendation, in simulated worlds with known losses, and how much it finds of the savings."""

from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import binomtest

from foveate.studies import non_inferiority
from foveate.studies.non_inferiority import Losses
from foveate.studies.racing import (
    STARTUP,
    STEPS,
    Candidate,
    Standard,
    chance,
    confirmed,
    is_hopeless,
    is_worse,
    recommended,
    sequence,
)

PATCHES, BUDGETS = 144, (130, 108, 86, 72, 54, 36, 16)
LOOKS = (32, 64, 128, 256, 512)  # images after which a setting may leave the race


class World(NamedTuple):
    """The kinds of worlds that are simulated.

    Attributes:
        images: Number of images.
        questions: Mean number of questions about an image.
        max_loss: Loss that is accepted.
        methods: Number of methods.
        gain: Mean rate of questions that only compression answers correctly.
        near: Whether every setting loses just a little more than is accepted.
    """

    images: int
    questions: int
    max_loss: float
    methods: int = 6
    gain: float = 0.01
    near: bool = False


class Outcome(NamedTuple):
    recommended: bool
    wrong: bool
    share: float  # of the achievable saving; NaN if nothing can be saved


def simulate(world, rng):
    """Runs a race and its confirmation by the rules of the package, on answers drawn with known losses."""
    true = true_losses(world, rng)
    counts = 1 + rng.poisson(world.questions - 1, world.images)
    data = {key: drawn(loss, world.gain * rng.uniform(0, 2), counts, rng) for key, loss in true.items()}
    standard, racing = Standard(world.max_loss), round(0.4 * world.images)
    finished = race(data, racing, world.images - racing, standard)
    steps = confirmed(
        sequence(finished, world.images - racing, standard), standard, lambda key: data[key].of(slice(racing, None))
    )
    chosen = recommended(steps)
    able = [budget for (_, budget), loss in true.items() if loss <= world.max_loss]
    saved = PATCHES - chosen.key[1] if chosen else 0
    share = saved / (PATCHES - min(able)) if able else np.nan
    return Outcome(chosen is not None, chosen is not None and true[chosen.key] > world.max_loss, share)


def true_losses(world, rng):
    """Draws the loss of every setting: it grows as the budget falls, and is near the accepted one at some budget."""
    if world.near:
        return {(m, b): world.max_loss * 1.001 for m in range(world.methods) for b in BUDGETS}
    found = {}
    for method in range(world.methods):
        middle, slope, shift = rng.choice(BUDGETS), rng.uniform(0.3, 2.5), np.exp(rng.normal(0, 0.3))
        for budget in BUDGETS:
            ratio = (PATCHES / budget - 1) / (PATCHES / middle - 1)
            found[method, budget] = min(0.7, world.max_loss * shift * ratio**slope)
    return found


def drawn(loss, gain, counts, rng, correlation=0.2):
    """Draws losses by image: rates of lost and won questions vary between images."""
    spread = (1 - correlation) / correlation
    down, up = loss + gain, gain / max(1 - loss - gain, 0.01)
    lost = rng.binomial(counts, rng.beta(down * spread, (1 - down) * spread, len(counts)))
    won = rng.binomial(counts - lost, np.full(len(counts), up))
    return Losses((lost - won).astype(float), counts.astype(float))


def race(data, racing, confirming, standard):
    finished, failed = [], set()
    for method, budget in sorted(data, key=lambda key: -key[1]):
        if method in failed:
            continue
        looks = [*(n for n in LOOKS if n < racing), racing]
        rivals = [one for one in finished if one.cost == budget]
        for images in looks:
            losses = data[method, budget].of(slice(images))
            if is_hopeless(losses, confirming, standard):
                failed.add(method)
                break
            if any(is_worse(losses, one.losses.of(slice(images))) for one in rivals):
                break
        else:
            finished.append(Candidate((method, budget), budget, data[method, budget].of(slice(racing))))
    return finished


@pytest.mark.guards("recommendation: settings are confirmed on the images of the race")
def test_of_many_recommendations_five_in_a_hundred_lose_too_much_at_most(monkeypatch):
    found = [
        one for world in (World(300, 4, 0.03), World(200, 1, 0.05, near=True)) for one in run(world, 150, monkeypatch)
    ]
    wrong = sum(one.wrong for one in found)
    assert binomtest(wrong, len(found), 0.05, alternative="greater").pvalue > 0.01
    assert np.mean([one.recommended for one in found[:150]]) > 0.8
    assert np.nanmean([one.share for one in found[:150]]) > 0.5


@pytest.mark.extended("worlds")
@pytest.mark.parametrize(
    "world",
    [
        World(600, 7, 0.01),
        World(600, 7, 0.02),
        World(300, 1, 0.05, gain=0.02),
        World(1500, 1, 0.02, gain=0.02),
        World(200, 4, 0.05, gain=0.03),
        World(300, 4, 0.03, near=True),
    ],
    ids=str,
)
def test_in_every_kind_of_world_five_in_a_hundred_lose_too_much_at_most(world, monkeypatch):
    worlds = 2000
    found = run(world, worlds, monkeypatch)
    wrong = sum(one.wrong for one in found)
    low, high = binomtest(wrong, worlds).proportion_ci(0.95)
    shares = np.array([one.share for one in found])
    print(f"\n{world}: wrong {100 * wrong / worlds:.2f} [{100 * low:.2f}, {100 * high:.2f}] %", end="")
    chosen = binomtest(sum(one.recommended for one in found), worlds)
    ends = ", ".join(f"{100 * end:.1f}" for end in chosen.proportion_ci(0.95))
    print(f", recommended {100 * chosen.statistic:.1f} [{ends}] %", end="")
    if not world.near:
        half = 1.96 * np.nanstd(shares) / np.sqrt((~np.isnan(shares)).sum())
        print(f", share of the achievable saving {100 * np.nanmean(shares):.1f} +- {100 * half:.1f} %")
    assert low <= 0.05


def run(world, worlds, monkeypatch):
    monkeypatch.setattr(non_inferiority, "RESAMPLES", 499)
    rng = np.random.default_rng(0)
    return [simulate(world, rng) for _ in range(worlds)]


def losses(lost, images, questions=1):
    return Losses(np.array([1.0] * lost + [0.0] * (images - lost)), np.full(images, float(questions)))


def test_a_setting_stays_in_the_race_until_it_has_answered_some_images():
    assert not is_hopeless(losses(10, STARTUP - 1), 1000, Standard(0.01))
    assert is_hopeless(losses(10, STARTUP), 1000, Standard(0.01))


def test_a_setting_that_loses_nothing_has_a_chance_only_with_enough_images():
    assert chance(losses(0, 500), 298, Standard(0.01)) == 0
    assert chance(losses(0, 500), 2000, Standard(0.01)) > 0.9


def test_of_two_settings_with_other_answers_the_better_one_is_told():
    rng = np.random.default_rng(0)
    base = (rng.random(200) < 0.1).astype(float)
    more = np.maximum(base, (rng.random(200) < 0.1).astype(float))
    good, bad = (Losses(lost, np.ones(200)) for lost in (base, more))
    assert is_worse(bad, good)
    assert not is_worse(good, bad)
    assert not is_worse(good, good)


def test_the_sequence_begins_with_a_sure_setting_and_falls_in_cost():
    settings = {130: 0, 108: 1, 86: 5, 72: 9, 54: 60}
    candidates = [Candidate(cost, cost, losses(lost, 400)) for cost, lost in settings.items()]
    found = [candidate.key for candidate in sequence(candidates, 600, Standard(0.03))]
    assert found == [108, 86, 72]  # 108 is sure, and 54 hopeless


def test_a_dominated_setting_is_not_confirmed():
    candidates = [
        Candidate("a", 50, losses(4, 400)),
        Candidate("b", 50, losses(9, 400)),
        Candidate("c", 60, losses(9, 400)),
    ]
    assert [candidate.key for candidate in sequence(candidates, 600, Standard(0.03))] == ["a"]


def test_a_long_sequence_is_thinned_to_some_steps_with_both_ends():
    candidates = [Candidate(cost, cost, losses(21 - cost // 10, 400)) for cost in range(10, 150, 10)]
    found = [candidate.key for candidate in sequence(candidates, 600, Standard(0.06))]
    assert len(found) <= STEPS
    assert found == sorted(found, reverse=True)
    assert found[-1] == 10


@pytest.mark.guards("recommendation: the sequence goes on after a setting that failed")
def test_the_confirmation_ends_at_the_first_failure():
    kept = {"a": losses(0, 300), "b": losses(20, 300), "c": losses(0, 300)}
    candidates = [Candidate(key, cost, kept["a"]) for cost, key in zip((3, 2, 1), "abc", strict=True)]
    steps = confirmed(candidates, Standard(0.03), kept.__getitem__)
    assert [(step.key, step.passed) for step in steps] == [("a", True), ("b", False)]
    assert recommended(steps).key == "a"
    assert recommended(steps[1:]) is None
