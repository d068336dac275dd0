"""Repeated measurements in rounds, and their estimates.

The load of a machine changes from second to second. Therefore every round measures all sides of a comparison, in
reverse order every other time, and sides are compared round by round: the rounds are the independent units.
"""

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import ttest_1samp

T = TypeVar("T")


class Estimate(NamedTuple):
    """An estimate from `n` rounds.

    Attributes:
        value: The mean or the ratio.
        low: Lower end of its 95 % interval; NaN for a single round.
        high: Upper end of the interval.
        p: p value of no effect, which is a mean of 0 or a ratio of 1; NaN for a single round.
        n: Number of rounds.
    """

    value: float
    low: float
    high: float
    p: float
    n: int


class Rounds(Generic[T]):
    """A measurement whose every call measures each side once.

    Args:
        sides: Measurements by name.

    Attributes:
        measured: Results of each side, one per round.
    """

    def __init__(self, sides: Mapping[str, Callable[[], T]]) -> None:
        self.sides = sides
        self.measured: dict[str, list[T]] = {name: [] for name in sides}
        self._number = 0

    def __call__(self) -> None:
        for name in list(self.sides)[:: -1 if self._number % 2 else 1]:
            self.measured[name].append(self.sides[name]())
        self._number += 1


def timed(call: Callable[[], object]) -> Callable[[], float]:
    """Returns a function that makes the call and returns its seconds."""

    def seconds() -> float:
        start = perf_counter()
        call()
        return perf_counter() - start

    return seconds


def mean(values: ArrayLike) -> Estimate:
    """Returns the mean over rounds with Student's t interval."""
    rounds = np.asarray(values, dtype=float)
    if len(rounds) < 2:
        return Estimate(float(rounds.mean()), np.nan, np.nan, np.nan, len(rounds))
    test: Any = ttest_1samp(rounds, 0)
    low, high = test.confidence_interval(0.95)
    return Estimate(float(rounds.mean()), float(low), float(high), float(test.pvalue), len(rounds))


def ratio(values: ArrayLike, others: ArrayLike, scale: float = 1.0) -> Estimate:
    """Returns the geometric mean over rounds of `values / others`, with Student's t interval of the logarithms.

    Args:
        values: Positive numbers, one per round.
        others: Positive numbers of the same rounds.
        scale: Factor of the ratio.
    """
    logs = mean(np.log(np.asarray(values) / np.asarray(others)))  # arrays, because the indices of series may differ
    value, low, high = (float(scale * np.exp(end)) for end in logs[:3])
    return Estimate(value, low, high, logs.p, logs.n)


def growth(sizes: Sequence[float], values: Sequence[Sequence[float]]) -> Estimate:
    """Returns the exponent with which a quantity grows with a size, the slope between the logarithms per round.

    Args:
        sizes: Sizes, such as numbers of tokens.
        values: One value per round for each size.
    """
    logs = np.log(np.asarray(values, dtype=float))
    return mean(np.polyfit(np.log(sizes), logs, 1)[0])
