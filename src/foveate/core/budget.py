"""The only place where a budget is rounded or judged."""

import math

from foveate.core.errors import BudgetError


def resolve_keep(keep: int | float, patches: int) -> int:
    """The exact number of patches to keep.

    Args:
        keep: A count (int), or a fraction of the patches (float in (0, 1]), rounded half up, at least one.
        patches: How many patches an image has.

    Raises:
        BudgetError: The count or fraction is not in range.
    """
    if isinstance(keep, float):
        if not 0 < keep <= 1:
            raise BudgetError(f"keep={keep}: a fraction lies in (0, 1]; for a count give an int, 1..{patches}")
        return max(1, math.floor(keep * patches + 0.5))
    if not 1 <= keep <= patches:
        raise BudgetError(f"keep={keep}: an image has {patches} patches here, keep 1..{patches} of them")
    return keep
