"""Ctrl-C: once finishes a batch of questions and saves it, twice stops at once; none is lost, none is a traceback."""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from foveate.core.errors import behind

_TOLD = b"\nCtrl-C: stops when this batch is saved; once more stops at once\n"
_LATER_S = 0.05


class Interrupted(BaseException):
    """What leaves Lightning's loop, which would answer a `KeyboardInterrupt` by ending the process."""


def overhear_nothing() -> None:
    """Hears Ctrl-C a moment later where Python cannot raise it, as in a destructor; at exit the system hears it."""
    sys.unraisablehook = _again
    leave_first()


def leave_first() -> None:
    """At exit the system hears Ctrl-C before anything else is done that was registered until now."""
    atexit.unregister(_leave_to_the_system)
    atexit.register(_leave_to_the_system)


def hear_nothing_more() -> None:
    """While a command says that Ctrl-C ends it: another one is ignored, and what is half done says nothing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.unraisablehook = lambda _: None


def _again(lost: "sys.UnraisableHookArgs") -> None:
    if not issubclass(lost.exc_type, KeyboardInterrupt | Interrupted):
        return sys.__unraisablehook__(lost)
    ours = threading.main_thread().ident or 0
    later = threading.Timer(_LATER_S, signal.pthread_kill, (ours, signal.SIGINT))  # which ends a wait as well
    later.daemon = True
    later.start()


def _leave_to_the_system() -> None:
    with suppress(OSError, ValueError):  # of a pipe that nobody reads, which Python says itself
        sys.stdout.flush()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


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
    except BaseException as error:
        if behind(error, lambda one: isinstance(one, Interrupted)):
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
