"""Ranges of the options of a measurement of time."""

from collections.abc import Sequence

from foveate.core.errors import FoveateError


def check_batches(counts: Sequence[int]) -> None:
    """Refuses numbers of questions of which one is none, or where there are none.

    Raises:
        FoveateError: They are.
    """
    if min(counts, default=0) < 1:
        raise FoveateError(f"--batch {' '.join(map(str, counts))}: expected one or more numbers from 1 up")


def check_sizes(sides: Sequence[int]) -> None:
    """Refuses sides of images of which one is none.

    Raises:
        FoveateError: One is below 1.
    """
    if min(sides, default=1) < 1:
        raise FoveateError(f"size {' '.join(map(str, sides))}: expected numbers of pixels from 1 up")


def check_length(new_tokens: int, rounds: int) -> None:
    """Refuses answers and measurements that are too short.

    Raises:
        FoveateError: Fewer than two tokens are asked for, of which decoding has none, or no round.
    """
    if new_tokens < 2 or rounds < 1:
        told = f"new_tokens={new_tokens}, rounds={rounds}: expected at least 2 tokens, the first of which comes from "
        raise FoveateError(f"{told}prefill and the others from decoding, and at least 1 round")
