"""Numbers of visual tokens that FitPrune drops in each block, from the authors' code (arXiv 2409.10197)."""

from collections.abc import Sequence
from functools import cache

import numpy as np

from foveate.core.budget import Curve, Interpolated, Number

DROPPED = {
    0: (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    10: (0, 0, 1, 2, 1, 0, 1, 4, 5, 5, 11, 4, 2, 2, 0, 0, 1, 1, 2, 4, 2, 10, 1, 1, 1, 2, 1, 1, 0, 1, 0, 0),
    20: (0, 0, 3, 3, 1, 1, 4, 16, 14, 15, 24, 4, 2, 3, 2, 0, 6, 0, 5, 13, 4, 19, 2, 1, 1, 1, 1, 1, 2, 1, 0, 0),
    30: (0, 0, 7, 6, 4, 5, 16, 40, 24, 21, 24, 4, 2, 3, 4, 0, 16, 0, 11, 26, 6, 32, 3, 1, 0, 1, 2, 2, 4, 0, 0, 0),
    40: (0, 1, 21, 13, 14, 11, 41, 53, 29, 15, 14, 5, 1, 4, 5, 1, 26, 1, 13, 28, 6, 27, 2, 1, 0, 0, 1, 1, 2, 0, 0, 0),
    50: (3, 7, 49, 24, 29, 17, 59, 41, 26, 8, 10, 6, 2, 5, 7, 2, 30, 3, 13, 27, 5, 23, 2, 1, 0, 0, 1, 1, 2, 0, 0, 0),
    55: (6, 17, 69, 31, 34, 19, 59, 30, 23, 6, 8, 7, 2, 5, 8, 2, 29, 4, 12, 25, 4, 19, 2, 1, 0, 0, 1, 0, 1, 0, 0, 0),
    60: (14, 33, 89, 36, 36, 20, 55, 21, 18, 4, 7, 5, 2, 5, 7, 4, 26, 5, 11, 24, 4, 18, 2, 1, 0, 0, 1, 0, 1, 0, 0, 0),
    70: (48, 79, 118, 41, 33, 17, 36, 9, 9, 2, 3, 2, 1, 3, 4, 8, 18, 7, 8, 20, 4, 13, 2, 1, 0, 0, 1, 0, 1, 0, 0, 0),
    80: (128, 127, 118, 35, 26, 8, 13, 3, 2, 1, 0, 0, 0, 2, 1, 8, 7, 8, 5, 11, 2, 6, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0),
    90: (262, 153, 80, 19, 13, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 1, 2, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0),
}
"""For each reduction of the operations in per cent, the tokens of 576 that LLaVA-1.5-7B drops in each of 32 blocks."""
_PATCHES = 576
_GIVEN = (0.0, *((100 - cut) / 100 for cut in sorted(DROPPED, reverse=True)))


def interpolated(keep: Number, blocks: Sequence[int]) -> dict[int, Interpolated]:
    """Returns the tokens that enter each block from the first to the last before which tokens go.

    Args:
        keep: Share of the operations that remains, 1 minus the authors' reduction, or a count as a share of the
            patches; other shares than those of the table interpolate.
        blocks: The first and the last of these blocks. The last is taken for the model's last block, at whose share of
            the depth the table is read.
    """
    first, last = blocks
    return {block: Interpolated(keep, _curve(block, last + 1)) for block in range(first, last + 1)}


@cache
def _curve(block: int, depth: int) -> Curve:
    """Returns the share of the patches that enter a block of a model of `depth` blocks, by the share of operations."""
    left = [0.0]
    for cut in sorted(DROPPED, reverse=True):
        entering = 1 - np.cumsum([0, *DROPPED[cut]]) / _PATCHES
        left.append(float(np.interp(block * (len(entering) - 1) / depth, range(len(entering)), entering)))
    return Curve(_GIVEN, tuple(left))
