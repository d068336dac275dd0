"""Numbers of tokens that SparseVLM keeps at its three cuts, from the authors' code (arXiv 2410.04417)."""

from collections.abc import Mapping

import numpy as np

from foveate.core.budget import Capped, Number, plain_keep
from foveate.core.errors import BudgetError

SPARSEVLM = {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)}
SPARSEVLM_PLUS = {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)}


def interpolated(table: Mapping[int, tuple[int, ...]], keep: Number, cuts: int) -> tuple[Capped, ...]:
    """Returns how many tokens each cut keeps: a list of the table, or an interpolation of two.

    Args:
        table: Lists of three counts by their names in the authors' code; below the smallest name the counts fall to 0.
        keep: Name of a list, or a number between two names.
        cuts: Number of cuts.

    Raises:
        BudgetError: `keep` is outside the table, or there are not three cuts.
    """
    names, count = [0, *sorted(table)], plain_keep(keep)
    if not isinstance(count, int) or not 1 <= count <= names[-1]:
        raise BudgetError(f"keep={count}: SparseVLM's lists of counts are named by counts, give an int 1..{names[-1]}")
    if cuts != 3:
        raise BudgetError(f"{cuts} cuts: SparseVLM's lists have three counts, so give three blocks")
    lists = [(0,) * 3, *(table[name] for name in names[1:])]
    return tuple(Capped(round(float(np.interp(count, names, counts)))) for counts in zip(*lists, strict=True))
