"""Progress: bars in terminals and notebooks, and lines elsewhere, such as in the log of a batch job."""

import io
from collections.abc import Iterable
from threading import RLock
from typing import Any

from tqdm import tqdm as plain_tqdm
from tqdm.auto import tqdm

LINES_EVERY_S = 30.0
_LINE = "{desc}{n_fmt} of {total_fmt}, {rate_noinv_fmt}, {elapsed} gone, {remaining} left"
_disabled = False


class _Lines(plain_tqdm):
    """Progress as whole lines, which a log can hold; steps that end before the first line is due write nothing."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Writes a line, but no text that would clear a bar."""
        if msg is None:
            print(self, file=self.fp, flush=True)

    def close(self) -> None:
        """Ends the progress without the characters that clear a bar."""
        self.fp = io.StringIO()
        super().close()


def disable_bars() -> None:
    """Turns off the progress of this process, because another one shows it."""
    global _disabled
    _disabled = True
    tqdm.set_lock(RLock())  # tqdm's own is a system semaphore, which remains if the process is killed


def bar(steps: Iterable[Any] | int, unit: str, what: str = "", **options: Any) -> plain_tqdm:  # noqa: ANN401
    """Returns a bar with the remaining time, below those that are shown already; it disappears at the end.

    It appears after three seconds in a terminal or notebook. Elsewhere a line is written to standard error every 30
    seconds: steps done, their number, rate and remaining time. Of several processes, only rank 0 shows anything.

    Args:
        steps: What is iterated over, or the number of steps, which `update` counts.
        unit: Name of a step.
        what: Description of the work.
        **options: Further options of tqdm.
    """
    over: dict[str, Any] = {"total": steps} if isinstance(steps, int) else {"iterable": steps}
    over |= {"desc": what or None, "unit": unit, "leave": False, "delay": 3.0, "disable": _disabled}
    if _disabled or "disable" in options or bars_visible():
        return tqdm(**(over | options))
    lines: dict[str, Any] = {
        "desc": f"{what}: " if what else None,
        "unit": f" {unit}",
        "bar_format": _LINE,
        "delay": LINES_EVERY_S,
    }
    over |= {"mininterval": LINES_EVERY_S, "maxinterval": LINES_EVERY_S}
    return _Lines(**(over | options | lines))


def bars_visible() -> bool:
    """Returns whether bars are shown: in a terminal or notebook, unless they are turned off."""
    with tqdm(disable=True if _disabled else None, total=0, delay=3.0) as tried:
        return not tried.disable
