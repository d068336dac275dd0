"""Starts scripts and lines of Python in processes of their own, without importing the libraries for each of them.

Importing them takes longer than most of what tests start. So every process of the test run has one server, a fresh
interpreter without the checks of shapes (`tests/libraries.py` is what it imports), and what is started is a fork
of it: it gets arguments, environment and standard streams, runs, and ends as an interpreter of its own would, but for
the half second in which that tears down its modules. All forks of a server hash alike, and what libraries read from the
environment when they are imported is what the server read; a test about either, or about starting and ending itself,
needs `sys.executable`.
"""

import atexit
import ctypes
import json
import linecache
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NoReturn

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"

_SERVER = "import sys; from tests.scripts import serve; serve(int(sys.argv[1]))"
_LONGEST_REQUEST = 1 << 17  # bytes
_DIES_WITH_ITS_PARENT = 1  # Linux's PR_SET_PDEATHSIG


class Started:
    """A process, told and asked like a `subprocess.Popen`.

    Attributes:
        pid: Its number.
        returncode: How it ended, with the negative number of a signal that ended it; None while it is not known.
    """

    def __init__(self, status: socket.socket, args: list[str], streams: Mapping[str, Any]) -> None:
        self.args = args
        self.returncode: int | None = None
        self._status, self._streams = status, streams
        self.pid = int(self._told())

    def poll(self) -> int | None:
        """The status if it has ended."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits until it has ended; returns its status.

        Raises:
            TimeoutExpired: It has not ended within so many seconds.
        """
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(self._told())
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits until it has ended; returns what it has said and what it has complained of."""
        self.wait(timeout)
        return self.stdout, self.stderr

    @property
    def stdout(self) -> str:
        """What it has said until now."""
        return _text(self._streams["stdout"])

    @property
    def stderr(self) -> str:
        """What it has complained of until now."""
        return _text(self._streams["stderr"])

    def _told(self) -> bytes:
        told = self._status.recv(64)
        if not told:
            raise ChildProcessError("the server of the tests has ended: what `tests/libraries.py` imports has failed")
        return told


def start(
    *arguments: str | Path,
    folder: Path = ROOT,
    environment: Mapping[str, str] | None = None,
    streams: Mapping[str, int] | None = None,
    group: bool = False,
    before: str = "",
) -> Started:
    """Starts a script, or lines of Python after "-c", as `python` with these arguments would.

    Args:
        arguments: Path of a script or name of an experiment, or "-c" and the lines; then their options.
        folder: Where it runs.
        environment: What is different in it.
        streams: File descriptors for "stdout" and "stderr"; without them what it says is kept in a file.
        group: Whether it leads a group of processes of its own.
        before: Lines that are run before.
    """
    script, *options = map(str, arguments)
    if "/" not in script and script != "-c":
        script = str(EXPERIMENTS / f"{script.removesuffix('.py')}.py")
    kept = {name: (streams or {}).get(name) or TemporaryFile() for name in ("stdout", "stderr")}
    request = {
        "arguments": [script, *options],
        "folder": str(folder),
        "environment": {**os.environ, **(environment or {})},
        "group": group,
        "before": before,
    }
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    descriptors = [stream if isinstance(stream, int) else stream.fileno() for stream in kept.values()]
    with theirs:
        socket.send_fds(_server(os.getpid()), [json.dumps(request).encode()], [theirs.fileno(), *descriptors])
    return Started(ours, request["arguments"], kept)


def run(*arguments: str | Path, timeout: float | None = None, **how: Any) -> subprocess.CompletedProcess[str]:
    """Runs a script or lines of Python to the end; what is told it is that of `start`."""
    started = start(*arguments, **how)
    try:
        started.wait(timeout)
    finally:
        started.kill()
    return subprocess.CompletedProcess(started.args, started.wait(), started.stdout, started.stderr)


def wait_for(started: Started, true: Any, seconds: float = 240) -> None:
    """Waits until something is true while a process is at work; an error if it ends before."""
    limit = time.monotonic() + seconds
    while not true():
        assert started.poll() is None, f"it ended too early: {started.stdout}{started.stderr}"
        assert time.monotonic() < limit, f"waited {seconds} s: {started.stdout}{started.stderr}"
        time.sleep(0.005)


def serve(number: int) -> NoReturn:
    """Is the server: forks for every request, tells how the forks end, and ends when nobody is left who could ask.

    Args:
        number: File descriptor of the socket of requests.
    """
    import tests.libraries  # noqa: F401

    requests = socket.socket(fileno=number)
    wakes, woken = socket.socketpair()
    woken.setblocking(False)
    signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal
    parent, forks = os.getpid(), {}
    while True:
        ready, _, _ = select.select([requests, wakes], [], [])
        if wakes in ready:
            wakes.recv(4096)
            for fork in [fork for fork in forks if os.waitid(os.P_PID, fork, os.WEXITED | os.WNOHANG | os.WNOWAIT)]:
                code = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
                with suppress(OSError), forks.pop(fork) as status:
                    status.send(str(code).encode())
        if requests in ready:
            request, descriptors, _, _ = socket.recv_fds(requests, _LONGEST_REQUEST, 3)
            if not request:
                os._exit(0)
            status = socket.socket(fileno=descriptors[0])
            fork = os.fork()
            if not fork:
                for other in (requests, wakes, woken, status, *forks.values()):
                    other.close()
                _do(json.loads(request), descriptors[1:], parent)
            for descriptor in descriptors[1:]:
                os.close(descriptor)
            status.send(str(fork).encode())
            forks[fork] = status


def _do(request: Mapping[str, Any], descriptors: list[int], parent: int) -> NoReturn:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored by what runs in the background
    ctypes.CDLL(None).prctl(_DIES_WITH_ITS_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    if request["group"]:
        os.setsid()
    for stream, descriptor in enumerate(descriptors, 1):
        os.dup2(descriptor, stream)
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[:] = request["arguments"]
    more = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:1] = ["" if sys.argv[0] == "-c" else str(Path(sys.argv[0]).parent), *more]  # the first is the server's
    _end(partial(_execute, request["before"], *request["arguments"]))


def _execute(before: str, script: str, *options: str) -> None:
    exec(before, {})
    if script == "-c":
        sys.argv[:2] = ["-c"]
        if "<string>" in linecache.cache:  # where Python 3.13 keeps the code of -c, here that of the server
            linecache.cache["<string>"] = (len(options[0]), None, options[0].splitlines(keepends=True), "<string>")
        exec(options[0], {"__name__": "__main__"})
    else:
        runpy.run_path(script, run_name="__main__")


def _end(work: Callable[[], None]) -> NoReturn:
    """Works, and ends the process as the interpreter does, without tearing down what it has imported."""
    status = 0
    try:
        work()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # nobody reads it any more
            status = status or 120
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status & 0xFF)


def _text(stream: Any) -> str:
    if isinstance(stream, int):
        return ""
    return os.pread(stream.fileno(), os.fstat(stream.fileno()).st_size, 0).decode(errors="replace")


@cache
def _server(process: int) -> socket.socket:
    """The socket of requests of this process' server, which is started with the first one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-c", _SERVER, str(theirs.fileno())]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    server = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], **quiet)
    theirs.close()

    def stop() -> None:
        if os.getpid() == process:
            ours.close()
            server.wait()

    atexit.register(stop)  # it would end by itself, but then nobody could say what it has cost
    return ours
