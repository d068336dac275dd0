"""Ctrl-C while questions are answered: once finishes the batch and saves it, twice stops at once."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_TOLD = b"\nCtrl-C: stops when this batch is saved; once more stops at once\n"


class Interrupted(BaseException):
    """What leaves Lightning's loop, which would answer a `KeyboardInterrupt` by ending the process."""


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Gives what is called after every batch, and leaves the block there if Ctrl-C was pressed in it.

    Where Ctrl-C means something else than an interrupt, and in other threads than the main one, it does nothing.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise Interrupted
        pressed = True
        with suppress(OSError):  # who reads it may have heard Ctrl-C as well
            os.write(2, _TOLD)  # print may have been interrupted itself

    def leave() -> None:
        if pressed:
            raise Interrupted

    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield leave
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield leave
        leave()
    except Interrupted:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
