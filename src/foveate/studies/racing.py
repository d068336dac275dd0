"""The rules of a recommendation: which candidates leave the race, and which are confirmed in which order.

A race needs no guarantee: it only decides what is worth confirming. The guarantee is that of the confirmation, on
images that the race did not see.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit
from scipy.stats import norm

from foveate.studies.non_inferiority import Losses, fewest_images, p_value

LEVEL = 0.01  # of the test that ends the race of a candidate that is worse than another
STARTUP = 16  # images that a candidate answers at least
SURE, HOPELESS = 0.99, 0.05  # chances to be confirmed: of the first setting, and of those that are left out
STEPS = 6  # settings that are confirmed at most


@dataclass(frozen=True)
class Standard:
    """The loss that a setting may have, and the confidence that it keeps to it.

    Attributes:
        max_loss: Loss of the score per question that is still accepted, in (0, 1).
        confidence: Confidence that a recommended setting keeps to it, one-sided.
    """

    max_loss: float
    confidence: float = 0.95


class Candidate(NamedTuple):
    """A setting that has finished the race.

    Attributes:
        key: Its identifier.
        cost: What it costs; less is better.
        losses: Its losses on the images of the race.
    """

    key: Any
    cost: float
    losses: Losses


class Step(NamedTuple):
    """A setting that was confirmed or not.

    Attributes:
        key: Its identifier.
        losses: Its losses on the images of the confirmation.
        p: p of the hypothesis that it loses more than is accepted.
        passed: Whether it is confirmed.
    """

    key: Any
    losses: Losses
    p: float
    passed: bool


def is_hopeless(losses: Losses, images: int, standard: Standard) -> bool:
    """Returns whether a candidate has so little chance to be confirmed that its race ends; see `chance`."""
    return len(losses.lost) >= STARTUP and chance(losses, images, standard) < HOPELESS


def is_worse(losses: Losses, other: Losses) -> bool:
    """Returns whether a candidate surely loses more than another on the same images, at `LEVEL`."""
    return _surely_above(losses.lost - other.lost)


def chance(losses: Losses, images: int, standard: Standard) -> float:
    """Returns the expected power of the confirmation, by the normal approximation.

    Args:
        losses: Losses of a candidate in the race, perhaps on its first images only.
        images: Number of images of the confirmation.
        standard: What it must keep to.
    """
    if images < fewest_images(standard.max_loss, standard.confidence):
        return 0.0
    known, later = losses.spread / math.sqrt(len(losses.lost)), losses.spread / math.sqrt(images)
    reserve = standard.max_loss - losses.mean - float(norm.ppf(standard.confidence)) * later
    return float(norm.cdf(reserve / math.hypot(known, later)))


def sequence(candidates: Iterable[Candidate], images: int, standard: Standard) -> list[Candidate]:
    """Returns the candidates to confirm, from the most expensive to the cheapest.

    Of two candidates, the cheaper one stays unless the other has a better chance. The first is the cheapest that is
    `SURE` to be confirmed, or the one with the best chance; the last ones have little chance, but are cheap. At most
    `STEPS` are returned, evenly spread, with the first and the last.

    Args:
        candidates: The candidates that have finished the race.
        images: Number of images of the confirmation.
        standard: What they must keep to.
    """
    known = sorted(((c, chance(c.losses, images, standard)) for c in candidates), key=lambda pair: pair[0].cost)
    stairs: list[tuple[Candidate, float]] = []
    for candidate, hope in known:
        if hope >= HOPELESS and (not stairs or hope > stairs[-1][1]):
            if stairs and stairs[-1][0].cost == candidate.cost:
                stairs.pop()
            stairs.append((candidate, hope))
    first = next((number for number, (_, hope) in enumerate(stairs) if hope >= SURE), len(stairs) - 1)
    chosen = [candidate for candidate, _ in stairs[: first + 1]][::-1]
    if len(chosen) <= STEPS:
        return chosen
    return [chosen[i] for i in np.linspace(0, len(chosen) - 1, STEPS).round().astype(int)]


def confirmed(candidates: Sequence[Candidate], standard: Standard, ask: Callable[[Any], Losses]) -> list[Step]:
    """Confirms candidates in their order up to the first that fails; the last that passed is recommended.

    Each is tested at the full level: in a fixed sequence that ends at the first failure, the probability that any
    candidate passes that loses too much is at most 1 - `confidence` (Maurer, Hothorn and Lehmacher 1995, in Biometrie
    in der chemisch-pharmazeutischen Industrie 6; used for risks by Angelopoulos et al., arXiv 2110.01052). The order
    depends only on the race, whose images the confirmation does not share.

    Args:
        candidates: The candidates, from the most expensive to the cheapest.
        standard: What they must keep to.
        ask: Returns a candidate's losses on the images of the confirmation.
    """
    steps: list[Step] = []
    for candidate in candidates:
        losses = ask(candidate.key)
        p = p_value(losses, standard.max_loss)
        steps.append(Step(candidate.key, losses, p, p <= 1 - standard.confidence))
        if not steps[-1].passed:
            break
    return steps


def recommended(steps: Sequence[Step]) -> Step | None:
    """Returns the cheapest confirmed setting; None if none is."""
    return next((step for step in reversed(steps) if step.passed), None)


def _surely_above(values: np.ndarray) -> bool:
    """Returns whether the mean over images is above 0, at `LEVEL`."""
    images, spread = len(values), values.std(ddof=1)
    if images < STARTUP or spread == 0:
        return False
    return bool(values.mean() / spread * math.sqrt(images) > stdtrit(images - 1, 1 - LEVEL))
