"""The process of a load test's clients: reads a load per line of its input, and writes the rows of its requests."""

import json
import sys
import time
from ipaddress import ip_address
from itertools import cycle
from typing import Any
from urllib.parse import urlsplit

from foveate.core.errors import OptionError, message_of

_LONGEST_REQUEST = 120.0  # seconds


def check_loopback(url: str) -> None:
    """Checks that an address is one of this machine's own.

    Raises:
        OptionError: It is not.
    """
    host = urlsplit(url).hostname or ""
    try:
        own = ip_address(host).is_loopback
    except ValueError:
        own = False
    if not own:
        raise OptionError(f"{url}: a load test asks servers on this machine alone, at an address such as 127.0.0.1")


def timed_request(client: Any, body: dict[str, Any], start: float) -> dict[str, Any]:  # noqa: ANN401 (of openai)
    """Returns the row of one streamed request; times are seconds since `start`.

    Args:
        client: Client of the API.
        body: Arguments of a chat completion.
        start: Start of the load, by `time.perf_counter`.
    """
    row: dict[str, Any] = {"began": time.perf_counter() - start, "first": None, "last": None, "tokens": 0, "error": ""}
    try:
        for event in client.chat.completions.create(**body, stream=True):
            if event.choices and event.choices[0].delta.content:
                row["last"] = time.perf_counter() - start
                row["first"] = row["first"] or row["last"]
            if event.usage:
                row["tokens"] = event.usage.completion_tokens
    except Exception as error:  # a row of its own, whatever the client raises
        row["error"] = f"{type(error).__name__}: {message_of(error)}"
    return row | {"ended": time.perf_counter() - start}


def run(url: str, clients: int, requests: int, seconds: float, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows of a load; see `load.Load` for the arguments.

    Raises:
        OptionError: The server is not on this machine.
    """
    import locust  # not at the top: it replaces sockets and threads of the process that imports it
    from gevent import sleep
    from locust.env import Environment
    from locust.exception import StopUser
    from openai import OpenAI

    check_loopback(url)
    tickets, contents, rows, stopped = iter(range(requests)), cycle(bodies), [], []
    start = time.perf_counter()

    class Client(locust.User):
        wait_time = locust.constant(0)

        @locust.task
        def ask(self) -> None:
            if time.perf_counter() - start > seconds or next(tickets, None) is None:
                stopped.append(self)
                raise StopUser()
            row = timed_request(client, next(contents), start)
            rows.append(row)
            spent = 1000 * (row["ended"] - row["began"])
            failure = RuntimeError(row["error"]) if row["error"] else None
            self.environment.events.request.fire(
                request_type="POST", name="chat", response_time=spent, response_length=row["tokens"], exception=failure
            )

    with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=_LONGEST_REQUEST) as client:
        runner = Environment(user_classes=[Client]).create_local_runner()
        runner.start(clients, spawn_rate=100)
        while len(stopped) < clients and time.perf_counter() - start < seconds + _LONGEST_REQUEST:
            sleep(0.005)
        runner.quit()
    return rows


def main() -> None:
    """Answers each line of the input with a line."""
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
