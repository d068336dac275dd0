"""Overlap of the box that an answer names with the correct one."""

import re
from collections.abc import Sequence

_NUMBER = r"(-?\d+(?:\.\d+)?)"
_FOUR = re.compile(rf"{_NUMBER}\D+?{_NUMBER}\D+?{_NUMBER}\D+?{_NUMBER}")
HIT = 0.5


def named_box(prediction: str) -> tuple[float, float, float, float] | None:
    """Returns the first four numbers of an answer as left, top, right and bottom in shares of the image, or None.

    Numbers above 1 are read as thousandths, the format of Qwen2-VL, Qwen3-VL and InternVL. The pixels that Qwen2.5-VL
    writes cannot be distinguished from thousandths and are read as such.
    """
    found = _FOUR.search(prediction)
    if not found:
        return None
    values = [float(number) for number in found.groups()]
    scale = 1000 if max(values) > 1 else 1
    left, top, right, bottom = (value / scale for value in values)
    return left, top, right, bottom


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Returns the intersection over union of two boxes (left, top, right, bottom); 0 if one has no area."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    areas = [max(box[2] - box[0], 0) * max(box[3] - box[1], 0) for box in (one, other)]
    shared = max(width, 0) * max(height, 0) if all(areas) else 0.0
    return shared / (sum(areas) - shared) if all(areas) else 0.0


def box_overlap(prediction: str, references: Sequence[str]) -> float:
    """Returns the overlap of the answer's box with the last reference, the exact one; 0 without a box."""
    found, true = named_box(prediction), named_box(references[-1])
    if true is None:
        raise ValueError(f"reference {references[-1]!r} is not a box: expected four numbers")
    return overlap(found, true) if found else 0.0


def box_hit(prediction: str, references: Sequence[str]) -> float:
    """Returns 1 if the overlap is at least one half.

    Source: Yu et al. 2016, arXiv 1608.00272v3, section 5.
    """
    return float(box_overlap(prediction, references) >= HIT)
