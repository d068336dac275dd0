"""How far a long step is."""

from collections.abc import Iterable
from threading import RLock
from typing import Any

from tqdm.auto import tqdm

_hushed = False


def hush() -> None:
    """From now on this process shows no bars: another one does."""
    global _hushed
    _hushed = True
    tqdm.set_lock(RLock())  # its own is a semaphore of the system, which remains if the process is killed


def bar(steps: Iterable[Any] | int, unit: str, what: str = "", **options: Any) -> tqdm:  # noqa: ANN401
    """A bar with the time left, below those that are shown already; it goes when the step is done.

    Steps of less than three seconds show none. Only a terminal or a notebook shows it, and of several processes that
    work together the first.

    Args:
        steps: What is gone through, or how many there are, to be told by `update`.
        unit: What a step is.
        what: What is done.
        **options: More of tqdm's.
    """
    hidden = True if _hushed else None  # None: by what the output is
    over: dict[str, Any] = {"total": steps} if isinstance(steps, int) else {"iterable": steps}
    over |= {"desc": what or None, "unit": unit, "leave": False, "delay": 3.0, "disable": hidden}
    return tqdm(**(over | options))


def seen() -> bool:
    """Whether anybody sees bars."""
    with bar(0, "") as tried:
        return not tried.disable
