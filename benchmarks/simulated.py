"""Simulated questions about images of known accuracy: coverage of intervals and errors of tests."""

from collections.abc import Mapping
from itertools import combinations, product
from typing import NamedTuple

import numpy as np

from foveate.analysis.statistics import Numbers, Totals, balance_interval, share_interval, totals_of
from foveate.analysis.verdicts import SIGNIFICANT, paired_p

IMAGES = (20, 42, 100, 200)
ACCURACIES = (0.6, 0.8, 0.9, 0.95, 0.987, 0.998)
CORRELATIONS = (0.0, 0.1, 0.3)  # within an image
AGREEMENTS = (0.3, 0.8)  # correlation of two methods
GAPS = (0.0, 0.02, 0.06)  # between two accuracies
LEAST, MOST = 0.93, 0.985
ACCURACY = 0.98  # accuracy of equal methods
QUESTIONS = 6  # largest number per image


class Covered(NamedTuple):
    """Coverage of an interval in one simulated cell.

    Attributes:
        cell: Description of the simulation.
        coverage: Share of the samples whose interval holds the truth.
        bound: Smallest coverage of at least `LEAST` of any interval that depends only on the number of failures (for
            differences on their sum) and holds the truth for a contiguous range of numbers.
        samples: Number of samples.
        differing: Mean number of images with a wrong answer, or for differences with different answers.
        width: Mean width of the interval.
        effect: Design effect of the records that were resampled; below 1 if the questions about one image differ more
            than images do. The intervals count it as 1, so they cover more then.
    """

    cell: str
    coverage: float
    bound: float
    samples: int
    differing: float
    width: float
    effect: float = 1.0


def accuracies(samples: int, seed: int = 0, cells: list[tuple[int, float, float]] | None = None) -> list[Covered]:
    """Returns the coverage of `share_interval` for beta-binomial images with one to six questions.

    Args:
        samples: Number of samples per cell.
        seed: Seed of all cells.
        cells: Images, accuracy and correlation within an image; None means all combinations.
    """
    rng, found = np.random.default_rng(seed), []
    for images, accuracy, correlation in cells or product(IMAGES, ACCURACIES, CORRELATIONS):
        counts = rng.integers(1, QUESTIONS + 1, (samples, images))
        sums = rng.binomial(counts, _beta(rng, accuracy, correlation, counts.shape))
        totals = Totals(sums, sums, sums, counts, np.zeros_like(counts))
        cell = f"{images} images, {100 * accuracy:g} %, correlation {correlation:g}"
        failures = counts - sums
        found.append(_covered(cell, accuracy, share_interval(totals), failures.sum(-1), failures > 0))
    return found


def differences(
    samples: int, seed: int = 0, cells: list[tuple[int, float, float, float, float]] | None = None
) -> list[Covered]:
    """Returns the coverage of `balance_interval` for two correlated methods on Dirichlet-multinomial images.

    Args:
        samples: Number of samples per cell.
        seed: Seed of all cells.
        cells: Images, accuracy of the better method, correlation within an image, correlation of the methods, and gap
            to the other method; None means all combinations.
    """
    rng, found = np.random.default_rng(seed), []
    grid = product(IMAGES, ACCURACIES, CORRELATIONS, AGREEMENTS, GAPS)
    for images, accuracy, correlation, agreement, gap in cells or grid:
        a, b = accuracy, accuracy - gap
        both = min(a * b + agreement * np.sqrt(a * (1 - a) * b * (1 - b)), b)
        counts = rng.integers(1, QUESTIONS + 1, (samples, images))
        won, lost = _multinomial(rng, counts, (a - both, b - both), correlation)
        sums, differing = won - lost, won + lost
        totals = Totals(sums, differing, differing, counts, np.zeros_like(counts))
        cell = f"{images} images, {100 * a:g} % and {100 * b:g} %, correlations {correlation:g} and {agreement:g}"
        found.append(_covered(cell, gap, balance_interval(totals), sums.sum(-1), differing > 0))
    return found


def resampled(scores: Mapping[str, np.ndarray], images: np.ndarray, samples: int, seed: int = 0) -> list[Covered]:
    """Returns the coverage of both intervals for images that are drawn from real records with replacement.

    The records are the population, so their mean is the truth.

    Args:
        scores: (question) scores in [0, 1] by method.
        images: (question) image of each question.
        samples: Number of samples per cell.
        seed: Seed of all cells.
    """
    rng, found = np.random.default_rng(seed), []
    values = {name: (one, share_interval) for name, one in scores.items()}
    values |= {f"{a} - {b}": (scores[a] - scores[b], balance_interval) for a, b in combinations(scores, 2)}
    for size, (name, (one, interval)) in product(IMAGES, values.items()):
        whole = totals_of(one, images)
        drawn = rng.integers(0, len(whole.counts), (samples, size))
        totals = Totals(*(column[drawn] for column in whole))
        failures = totals.counts - totals.sums if interval is share_interval else totals.sizes
        numbers = np.rint(60 * (failures if interval is share_interval else totals.sums).sum(-1)).astype(int)
        cell = f"{size} of {len(whole.counts)} images, {name}, mean {100 * one.mean():.1f} %"
        covered = _covered(cell, float(one.mean()), interval(totals), numbers, failures > 1e-9)
        found.append(covered._replace(effect=_effect(whole)))
    return found


def _effect(totals: Totals) -> float:
    """Returns the variance of the mean over that of as many independent questions."""
    questions, mean = totals.counts.sum(), totals.sums.sum() / totals.counts.sum()
    spread = totals.squares.sum() - questions * mean**2
    return float(((totals.sums - mean * totals.counts) ** 2).sum() / spread)


class Errors(NamedTuple):
    """Errors of a test under the null hypothesis.

    Attributes:
        single: Share of p values below 0.05.
        family: Share of families with a p value below 0.05 after Holm's correction.
        families: Number of families.
    """

    single: float
    family: float
    families: int


def null_methods(
    families: int, images: int, seeds: int, correlation: float = 0.0, *, methods: int = 24, mean: bool = False
) -> Errors:
    """Returns how often `paired_p` rejects the equality of methods and a control of several seeds that are equal.

    Args:
        families: Number of draws of all methods.
        images: Number of images with one to six questions, of which every method answers 98 %.
        seeds: Number of seeds of the control.
        correlation: Correlation of all runs within an image; more than 0 means that some images are hard.
        methods: Number of methods that are corrected together.
        mean: Whether to test against the mean of the seeds instead of all seeds.
    """
    rng, below, any_below = np.random.default_rng([images, seeds]), 0, 0
    for _ in range(families):
        counts = rng.integers(1, QUESTIONS + 1, (images, 1))
        chance = _beta(rng, ACCURACY, correlation, (images, 1))
        runs = rng.binomial(counts, chance, (images, seeds + methods)).astype(float)
        control = runs[:, :seeds].mean(1) if mean else runs[:, :seeds]
        p = np.array([paired_p(run, control, np.arange(images)) for run in runs[:, seeds:].T])
        below += (p < SIGNIFICANT).mean()
        any_below += p.min() * methods < SIGNIFICANT  # Holm's first step
    return Errors(float(below / families), float(any_below / families), families)


def _covered(
    cell: str, truth: float, ends: tuple[Numbers, Numbers], numbers: np.ndarray, differing: np.ndarray
) -> Covered:
    low, high = ends
    held = (low <= truth + 1e-12) & (truth <= high + 1e-12)
    size = float(differing.sum(-1).mean())
    return Covered(cell, float(held.mean()), _bound(numbers), np.size(held), size, float((high - low).mean()))


def _bound(numbers: np.ndarray) -> float:
    """Returns the smallest share of samples, at least `LEAST`, whose number lies in some range."""
    cumulated = np.cumsum(np.bincount(numbers - numbers.min()) / len(numbers))
    windows = cumulated[None, :] - np.concatenate([[0], cumulated[:-1]])[:, None]
    return float(windows[windows >= LEAST].min())


def _beta(rng: np.random.Generator, mean: float, correlation: float, shape: tuple[int, ...]) -> np.ndarray:
    if not correlation:
        return np.full(shape, mean)
    size = 1 / correlation - 1
    return rng.beta(mean * size, (1 - mean) * size, shape)


def _multinomial(
    rng: np.random.Generator, counts: np.ndarray, shares: tuple[float, float], correlation: float
) -> tuple[np.ndarray, np.ndarray]:
    first, second = (np.full(counts.shape, share) for share in shares)
    if correlation:
        size = 1 / correlation - 1
        parts = np.maximum(np.array([*shares, 1 - sum(shares)]) * size, 1e-12)
        drawn = rng.gamma(parts, size=(*counts.shape, 3))
        drawn /= np.maximum(drawn.sum(-1, keepdims=True), 1e-300)
        first, second = drawn[..., 0], drawn[..., 1]
    won = rng.binomial(counts, first.clip(0, 1))
    return won, rng.binomial(counts - won, (second / (1 - first).clip(1e-12)).clip(0, 1))
