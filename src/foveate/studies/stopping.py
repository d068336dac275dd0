"""When a trial has answered enough questions to be given up.

A trial with one goal that is measured per question is stopped by Optuna's `WilcoxonPruner`. Optuna prunes neither
trials with several goals nor for a constraint; there the rule is an optimistic bound: with d_i the mean paired gain
over another trial in the questions about image i, the trial can hardly gain more than

    u = mean(d) + t(n - 1, 1 - P) * sd(d) / sqrt(n)

(the upper end of a one-sided t interval). It is stopped when for a member of the Pareto front u <= 0 in every goal and
u < 0 in one, or when even the optimistic loss against the uncompressed model exceeds the constraint. Because the bound
is looked at after every batch, P is small, and nothing is stopped before `STARTUP` images.

A stopped trial is a complete one whose values are those of the trial that it lost against, plus the mean paired gain,
which is negative: an estimate that does not depend on how hard the answered questions were, and never the best one. A
trial whose mean is not worse is not stopped.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from scipy import stats

from foveate.studies.goals import Gain
from foveate.studies.plan import Goal

P = 0.01
STARTUP = 32  # images


class Rival(NamedTuple):
    """A finished trial to compare with.

    Attributes:
        number: Of the trial.
        records: Its records.
        attributes: Its user attributes.
    """

    number: int
    records: pa.Table
    attributes: Mapping[str, float]


def optimistic(images: np.ndarray) -> float:
    """Upper end of the one-sided interval of the mean gain at level `P`; infinite before `STARTUP` images."""
    if len(images) < STARTUP:
        return np.inf
    spread = stats.sem(images)
    return float(images.mean() + (stats.t.ppf(1 - P, len(images) - 1) * spread if spread else 0.0))


def dominated(gains: Sequence[Gain | float]) -> bool:
    """Whether the other trial is at least as good in every goal and better in one, even seen optimistically.

    Args:
        gains: One per goal; a number is exact, as a measured latency.
    """
    bounds = [optimistic(g.images) if isinstance(g, Gain) else g for g in gains]
    means = [g.mean if isinstance(g, Gain) else g for g in gains]
    return all(bound <= 0 for bound in bounds) and min(bounds) < 0 and all(mean <= 0 for mean in means)


def corrected(rival: Rival, gains: Mapping[Goal, Gain]) -> dict[str, float]:
    """What a stopped trial would have measured on all questions, by goal."""
    signs = {"quality": 1, "accuracy": 1, "tokens": -1}
    return {str(goal): rival.attributes[goal] + signs[goal] * one.mean for goal, one in gains.items()}
