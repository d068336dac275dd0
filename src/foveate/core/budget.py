"""The only place where a budget is judged and becomes a count; how a method splits it is the method's own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from foveate.core.errors import BudgetError


@dataclass(frozen=True)
class Floor:
    """A fraction of the patches rounded down, as `int()` does in the authors' scripts."""

    share: float


@dataclass(frozen=True)
class Geometric:
    """Step `step` of `steps` on the way from all patches to `keep` of them, each step by the same factor."""

    keep: int | float
    step: int
    steps: int


@dataclass(frozen=True)
class Times:
    """A budget times a factor, rounded down."""

    keep: int | float
    factor: float


@dataclass(frozen=True)
class Capped:
    """A count, or all patches but one where there are not as many."""

    count: int


Keep = int | float | Floor | Geometric | Times | Capped
"""A budget: a count (int), a fraction of the patches (float in (0, 1], rounded half up, at least 1), or a rule."""


def resolve_keep(keep: Keep, patches: int) -> int:
    """The exact number of patches to keep.

    Args:
        keep: The budget.
        patches: How many patches there were before any compression.

    Raises:
        BudgetError: The count or fraction is not in range.
    """
    match keep:
        case Floor(share):
            return max(1, math.floor(_fraction(share, patches) * patches + 1e-9))
        case Geometric(last, step, steps):
            share = resolve_keep(last, patches) / patches
            return max(1, math.floor(patches * share ** (step / steps) + 1e-9))
        case Times(base, factor):
            count = math.floor(resolve_keep(base, patches) * factor)
            if count > patches:
                raise BudgetError(f"keep={base}: {factor:g} times as many patches are needed, and there are {patches}")
            return max(1, count)
        case Capped(count):
            return max(1, min(count, patches - 1))
        case float():
            return max(1, math.floor(_fraction(keep, patches) * patches + 0.5))
        case _ if not 1 <= keep <= patches:
            raise BudgetError(f"keep={keep}: an image has {patches} patches here, keep 1..{patches} of them")
        case _:
            return keep


def check_budgets(keeps: Sequence[int | float], needed: bool = True) -> None:
    """Refuses budgets that no image allows, however many patches it has.

    Args:
        keeps: The budgets.
        needed: Whether there must be any.

    Raises:
        BudgetError: A count is below 1, a fraction is not in (0, 1], or there is no budget.
    """
    if needed and not keeps:
        raise BudgetError("no budget is given: keep 1 or more patches, or a fraction of them in (0, 1]")
    for keep in keeps:
        if isinstance(keep, float):
            if not 0 < keep <= 1:
                raise BudgetError(f"keep={keep}: a fraction lies in (0, 1]; for a count give an int from 1 up")
        elif keep < 1:
            raise BudgetError(f"keep={keep}: a count is 1 or more; for a fraction of the patches write 0.5")


def _fraction(keep: float, patches: int) -> float:
    if not 0 < keep <= 1:
        raise BudgetError(f"keep={keep}: a fraction lies in (0, 1]; for a count give an int, 1..{patches}")
    return keep
