"""Range checks of the options of a speed measurement."""

from collections.abc import Sequence

from foveate.core.errors import FoveateError


def check_batches(counts: Sequence[int]) -> None:
    """Checks the numbers of questions per batch.

    Raises:
        FoveateError: There is no number, or one is below 1.
    """
    if min(counts, default=0) < 1:
        raise FoveateError(f"--batch {' '.join(map(str, counts))}: expected one or more numbers from 1 up")


def check_sizes(sides: Sequence[int]) -> None:
    """Checks the sides of images in pixels.

    Raises:
        FoveateError: A side is below 1.
    """
    if min(sides, default=1) < 1:
        raise FoveateError(f"size {' '.join(map(str, sides))}: expected numbers of pixels from 1 up")


def check_frames(frames: Sequence[int]) -> None:
    """Checks the numbers of frames of videos.

    Raises:
        FoveateError: A number is below 1.
    """
    if min(frames, default=1) < 1:
        raise FoveateError(f"frames {' '.join(map(str, frames))}: expected numbers of frames from 1 up")


def check_length(new_tokens: int, rounds: int) -> None:
    """Checks the length of answers and the number of rounds.

    Raises:
        FoveateError: An answer has fewer than two tokens, so that nothing is decoded, or there is no round.
    """
    if new_tokens < 2 or rounds < 1:
        raise FoveateError(
            f"new_tokens={new_tokens}, rounds={rounds}: expected at least 2 tokens, of which prefill yields the first "
            "and decoding the others, and at least 1 round"
        )
