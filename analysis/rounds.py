"""Things measured in turn, and what their rounds say.

What else a machine does changes from second to second. So both sides of a comparison are measured in every round, every
other round backwards, and compared round by round: the rounds are the independent units.
"""

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import ttest_1samp

T = TypeVar("T")


class Estimate(NamedTuple):
    """What `n` rounds say.

    Attributes:
        value: The mean.
        low: Of its 95 % interval, which a single round does not have (NaN).
        high: The same.
        p: Of no effect: of a mean of 0, of a ratio of 1; NaN for a single round.
        n: Number of rounds.
    """

    value: float
    low: float
    high: float
    p: float
    n: int


class Rounds(Generic[T]):
    """Called, it measures every side once.

    Args:
        sides: What is measured, and how.

    Attributes:
        measured: What each side gave, round by round.
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
    """Measures how many seconds a call takes."""

    def seconds() -> float:
        start = perf_counter()
        call()
        return perf_counter() - start

    return seconds


def mean(values: ArrayLike) -> Estimate:
    """The mean over rounds, with the interval of Student's t."""
    rounds = np.asarray(values, dtype=float)
    if len(rounds) < 2:
        return Estimate(float(rounds.mean()), np.nan, np.nan, np.nan, len(rounds))
    test: Any = ttest_1samp(rounds, 0)
    low, high = test.confidence_interval(0.95)
    return Estimate(float(rounds.mean()), float(low), float(high), float(test.pvalue), len(rounds))


def ratio(values: ArrayLike, others: ArrayLike, scale: float = 1.0) -> Estimate:
    """The geometric mean over rounds of `values / others`, with the interval of Student's t of the logarithms.

    Args:
        values: Positive, one per round.
        others: Of the same rounds.
        scale: Multiplies the ratio.
    """
    logs = mean(np.log(np.asarray(values) / np.asarray(others)))  # of series, whose indices differ, too
    value, low, high = (float(scale * np.exp(end)) for end in logs[:3])
    return Estimate(value, low, high, logs.p, logs.n)


def growth(sizes: Sequence[float], values: Sequence[Sequence[float]]) -> Estimate:
    """The exponent with which a quantity grows: 1 if in proportion to the size, 2 if to its square.

    Per round the slope of the straight line through the logarithms.

    Args:
        sizes: Such as numbers of tokens.
        values: At each size, one per round.
    """
    logs = np.log(np.asarray(values, dtype=float))
    return mean(np.polyfit(np.log(sizes), logs, 1)[0])
