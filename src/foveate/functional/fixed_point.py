"""Steps that are repeated until nothing changes."""

from collections.abc import Callable

import torch
from torch import Tensor

from foveate.functional.ranking import open_ended

_ROUNDS = 8  # between two comparisons on an accelerator


def fixed_point(step: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Returns the first value that a step does not change.

    Args:
        step: Returns the next value; after finitely many steps it must return its argument.
        start: The first value.
    """
    rounds = _ROUNDS if open_ended(start) else 1  # steps beyond the fixed point cost less than a wait after each step
    value = start
    while True:
        before = value
        for _ in range(rounds):
            before, value = value, step(value)
        if torch.equal(before, value):
            return value
