"""A load test: its size, the servers that it starts on this machine, and the process that asks them."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from foveate.core.errors import FoveateError, OptionError

_ADDRESS = re.compile(r" on (http://\S+/v1);")
_STOPPED_AFTER = 20  # seconds


@dataclass(frozen=True)
class Load:
    """One measurement of one server: clients that each send the next request when the last one is answered.

    Attributes:
        url: Base URL of the API, on this machine.
        clients: Number of clients.
        requests: Number of requests of all clients, at most.
        seconds: Time after which no request is sent.
        bodies: Arguments of chat completions, which take turns.
    """

    url: str
    clients: int
    requests: int
    seconds: float
    bodies: Sequence[dict[str, Any]]


def check_load(concurrency: Sequence[int], requests: int, seconds: float) -> None:
    """Checks the size of a load test.

    Raises:
        OptionError: A number is out of range.
    """
    if min(concurrency, default=0) < 1:
        raise OptionError(f"concurrency {' '.join(map(str, concurrency))}: expected numbers of clients from 1 up")
    if requests < max(concurrency):
        raise OptionError(f"requests={requests}: expected at least one for each of {max(concurrency)} clients")
    if not 0 < seconds <= 600:
        raise OptionError(f"seconds={seconds}: expected more than 0, and at most 600")


@contextmanager
def server(recipe: str, options: Sequence[str]) -> Iterator[str]:
    """Yields the base URL of a server in a process of its own, on a free port of this machine.

    Args:
        recipe: See `foveate serve`.
        options: Further options of that command.

    Raises:
        FoveateError: The server does not start; its own error is printed.
    """
    command = [sys.executable, "-m", "foveate", "serve", recipe, *options, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        if not (found := next(filter(None, map(_ADDRESS.search, process.stdout)), None)):
            raise FoveateError(f"the server of {recipe!r} has ended with status {process.wait()} before it was ready")
        yield found[1]
    finally:
        _end(process)


@contextmanager
def clients() -> Iterator["Clients"]:
    """Yields the clients, which run in a process of their own: Locust replaces sockets and threads in its process.

    Raises:
        ModuleNotFoundError: Locust is not installed.
    """
    if find_spec("locust") is None:
        raise ModuleNotFoundError("No module named 'locust'", name="locust")
    command = [sys.executable, "-m", "foveate.serving.generator"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Clients(process)
    finally:
        _end(process)


class Clients:
    """A running process of clients."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, load: Load) -> list[dict[str, Any]]:
        """Returns one row per request: seconds since the start of the load, number of tokens, and error.

        Raises:
            FoveateError: The process has ended.
        """
        asks, answers = self._process.stdin, self._process.stdout
        assert asks is not None and answers is not None
        asks.write(json.dumps(asdict(load)) + "\n")
        asks.flush()
        if not (line := answers.readline()):
            raise FoveateError(f"the process of the clients has ended with status {self._process.wait()}")
        return json.loads(line)


def _end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(_STOPPED_AFTER)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
