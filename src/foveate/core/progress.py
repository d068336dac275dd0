"""Progress bars."""

from collections.abc import Iterable
from threading import RLock
from typing import Any

from tqdm.auto import tqdm

_disabled = False


def disable_bars() -> None:
    """Turns off the bars of this process, because another one shows them."""
    global _disabled
    _disabled = True
    tqdm.set_lock(RLock())  # tqdm's own is a system semaphore, which remains if the process is killed


def bar(steps: Iterable[Any] | int, unit: str, what: str = "", **options: Any) -> tqdm:  # noqa: ANN401
    """Returns a bar with the remaining time, below those that are shown already; it disappears at the end.

    It appears after three seconds, only in a terminal or notebook, and only in rank 0 of several processes.

    Args:
        steps: What is iterated over, or the number of steps, which `update` counts.
        unit: Name of a step.
        what: Description of the work.
        **options: Further options of tqdm.
    """
    hidden = True if _disabled else None  # None: shown in a terminal
    over: dict[str, Any] = {"total": steps} if isinstance(steps, int) else {"iterable": steps}
    over |= {"desc": what or None, "unit": unit, "leave": False, "delay": 3.0, "disable": hidden}
    return tqdm(**(over | options))


def bars_visible() -> bool:
    """Returns whether bars are shown."""
    with bar(0, "") as tried:
        return not tried.disable
