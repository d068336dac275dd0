"""How far a long step is."""

from collections.abc import Iterable
from multiprocessing import parent_process
from typing import Any

from tqdm.auto import tqdm


def bar(steps: Iterable[Any] | int | None, unit: str, what: str = "", silent: bool = False, **options: Any) -> tqdm:  # noqa: ANN401
    """A bar with the time left, below those that are shown already; it goes when the step is done.

    Steps of less than three seconds show none. Only a terminal or a notebook shows it, and of several processes the one
    that has started the others.

    Args:
        steps: What is gone through, or how many there are, to be told by `update`.
        unit: What a step is.
        what: What is done.
        silent: Whether another process shows the bar.
        **options: More of tqdm's.
    """
    hidden = True if silent or parent_process() is not None else None  # None: by what the output is
    counted = steps is None or isinstance(steps, int)
    over: dict[str, Any] = {"total": steps} if counted else {"iterable": steps}
    over |= {"desc": what or None, "unit": unit, "leave": False, "delay": 3.0, "disable": hidden}
    return tqdm(**(over | options))


def seen() -> bool:
    """Whether anybody sees bars."""
    with bar(None, "") as tried:
        return not tried.disable
