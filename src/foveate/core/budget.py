"""The only place where a budget is judged and becomes a count; how a method splits it is the method's own."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, SupportsFloat

from foveate.core.errors import BudgetError, shown
from foveate.core.values import Count, Judged, Misfit, Value, plain_number


def plain_keep(keep: object) -> "int | float | Floor | Geometric | Times | Capped":
    """Returns a budget with its number as one of Python; whether it is in range, `resolve_keep` judges.

    Args:
        keep: A whole number or a fraction, of any library (see `plain_number`), or a rule.

    Raises:
        BudgetError: It is something else.
    """
    if isinstance(keep, Floor | Geometric | Times | Capped):
        return keep
    try:
        return plain_number(keep)
    except Misfit:
        raise BudgetError(
            f"keep={shown(keep)}: expected how many patches stay, as a count such as 64 or a fraction such as 0.25"
        ) from None


Number = Annotated[SupportsFloat, Judged(plain_keep, "a budget")]


@dataclass(frozen=True)
class Floor(Value):
    """A fraction of the patches rounded down, as `int()` does in the authors' scripts."""

    share: Number


@dataclass(frozen=True)
class Geometric(Value):
    """Step `step` of `steps` on the way from all patches to `keep` of them, each step by the same factor."""

    keep: Number
    step: Count
    steps: Count


@dataclass(frozen=True)
class Times(Value):
    """A budget times a factor, rounded down."""

    keep: Number
    factor: float


@dataclass(frozen=True)
class Capped(Value):
    """A count, or all patches but one where there are not as many."""

    count: int


Keep = Annotated[SupportsFloat | Floor | Geometric | Times | Capped, Judged(plain_keep, "a budget")]
"""A budget: a count (integral), a fraction of the patches (real, in (0, 1], rounded half up, at least 1), or a rule.

Numbers may be those of any library; 16.0 is no count.
"""


def resolve_keep(keep: Keep, patches: int) -> int:
    """The exact number of patches to keep.

    Args:
        keep: The budget.
        patches: How many patches there were before any compression.

    Raises:
        BudgetError: It is no budget, or its count or fraction is not in range.
    """
    match keep:
        case Floor(share):
            return max(1, math.floor(_fraction(share, f"1..{patches}") * patches + 1e-9))
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
    match plain_keep(keep):
        case float() as share:
            return max(1, math.floor(_fraction(share, f"1..{patches}") * patches + 0.5))
        case int() as count if 1 <= count <= patches:
            return count
        case number:
            raise BudgetError(f"keep={number}: an image has {patches} patches here, keep 1..{patches} of them")


def check_budgets(keeps: Iterable[SupportsFloat], needed: bool = True) -> None:
    """Refuses budgets that no image allows, however many patches it has.

    Args:
        keeps: The budgets.
        needed: Whether there must be any.

    Raises:
        BudgetError: One is no number, a count below 1 or a fraction that is not in (0, 1], or there is none.
    """
    numbers = [plain_keep(keep) for keep in keeps]
    if needed and not numbers:
        raise BudgetError("no budget is given: keep 1 or more patches, or a fraction of them in (0, 1]")
    for number in numbers:
        if isinstance(number, float):
            _fraction(number, "from 1 up")
        elif isinstance(number, int) and number < 1:
            raise BudgetError(f"keep={number}: a count is 1 or more; for a fraction of the patches write 0.5")


def _fraction(keep: SupportsFloat, counts: str) -> float:
    share = float(keep)
    if not 0 < share <= 1:
        instead = f"such as {share:.0f}" if share.is_integer() and share >= 1 else counts
        raise BudgetError(f"keep={keep}: a fraction lies in (0, 1]; for a count give an int, {instead}")
    return share
