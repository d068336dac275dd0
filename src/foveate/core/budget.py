"""Budgets: how they are written, checked and converted to a count of patches."""

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, SupportsFloat

from foveate.core.errors import BudgetError, shown
from foveate.core.values import Count, Misfit, Validator, Value, plain_number


def plain_keep(keep: object) -> "int | float | Floor | Geometric | Times | Capped | Interpolated":
    """Returns a budget with a plain Python number; `resolve_keep` checks the range.

    Args:
        keep: A whole number or a fraction of any library (see `plain_number`), or a rule.

    Raises:
        BudgetError: The value is neither a number nor a rule.
    """
    if isinstance(keep, Floor | Geometric | Times | Capped | Interpolated):
        return keep
    try:
        return plain_number(keep)
    except Misfit:
        raise BudgetError(
            f"keep={shown(keep)}: expected how many patches to keep, as a count such as 64 or a fraction such as 0.25"
        ) from None


Number = Annotated[SupportsFloat, Validator(plain_keep, "a budget")]


@dataclass(frozen=True)
class Floor(Value):
    """A fraction of the patches, rounded down like `int()` in the authors' scripts.

    Attributes:
        share: The fraction.
    """

    share: Number


@dataclass(frozen=True)
class Geometric(Value):
    """The budget after some of several steps from all patches to `keep`, each by the same factor.

    Attributes:
        keep: The budget after the last step.
        step: Number of the step, counted from 1.
        steps: Number of steps.
    """

    keep: Number
    step: Count
    steps: Count


@dataclass(frozen=True)
class Times(Value):
    """A budget times a factor, rounded down.

    Attributes:
        keep: The budget.
        factor: The factor.
    """

    keep: Number
    factor: float


@dataclass(frozen=True)
class Capped(Value):
    """A count, or all patches but one if the image has fewer.

    Attributes:
        count: The count.
    """

    count: int


@dataclass(frozen=True)
class Curve(Value):
    """Points that are connected by straight lines.

    Attributes:
        at: Where the points are, ascending from 0 to 1.
        values: The value of each point.
    """

    at: tuple[float, ...]
    values: tuple[float, ...]

    def value(self, at: float) -> float:
        """Returns the value at a place from 0 to 1, exactly that of a point if there is one."""
        after = min(bisect_left(self.at, at), len(self.at) - 1)
        if self.at[after] == at or after == 0:
            return self.values[after]
        (left, right), (low, high) = self.at[after - 1 : after + 1], self.values[after - 1 : after + 1]
        return low + (high - low) * (at - left) / (right - left)


@dataclass(frozen=True)
class Interpolated(Value):
    """A share of the patches that is the value of a curve at another budget.

    Attributes:
        keep: The other budget; a count is taken as a share of the patches.
        curve: The curve.
    """

    keep: Number
    curve: Curve


Keep = Annotated[SupportsFloat | Floor | Geometric | Times | Capped | Interpolated, Validator(plain_keep, "a budget")]
"""A budget: a count (integral), a fraction of the patches (real, in (0, 1], rounded half up, at least 1), or a rule.

Numbers of any library are accepted; 16.0 is not a count.
"""


def resolve_keep(keep: Keep, patches: int) -> int:
    """Returns the number of patches to keep.

    Args:
        keep: The budget.
        patches: Number of patches before any compression.

    Raises:
        BudgetError: The value is not a budget, or its count or fraction is out of range.
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
        case Interpolated(base, curve):
            return max(1, math.floor(curve.value(share_of(base, patches)) * patches + 0.5))
    match plain_keep(keep):
        case float() as share:
            return max(1, math.floor(_fraction(share, f"1..{patches}") * patches + 0.5))
        case int() as count if 1 <= count <= patches:
            return count
        case number:
            raise BudgetError(f"keep={number}: an image has {patches} patches here, keep 1..{patches} of them")


def share_of(keep: Number, patches: int) -> float:
    """Returns a budget as a share of the patches: a fraction as it is, a count divided by their number.

    Raises:
        BudgetError: The value is not a budget, or its count or fraction is out of range.
    """
    number = plain_keep(keep)
    return _fraction(number, f"1..{patches}") if isinstance(number, float) else resolve_keep(keep, patches) / patches


def floored(keep: Keep | None) -> Keep | None:
    """Returns a budget whose fraction is rounded down like `int()` in the authors' scripts; a count stays."""
    keep = None if keep is None else plain_keep(keep)
    return Floor(keep) if isinstance(keep, float) else keep


def check_budgets(keeps: Iterable[SupportsFloat], needed: bool = True) -> None:
    """Checks budgets without knowing the number of patches.

    Args:
        keeps: The budgets.
        needed: Whether there must be at least one.

    Raises:
        BudgetError: A budget is not a number, is a count below 1 or a fraction outside (0, 1], or there is none.
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
