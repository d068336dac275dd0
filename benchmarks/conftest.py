"""Fixtures for measuring sides in turn under pytest-benchmark, and the table at the end."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import results
from benchmarks.results import MISSED, Result
from foveate.analysis.rounds import Rounds
from foveate.core.allocator import keep_freed_memory

_noted = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:  # noqa: D103
    parser.addoption("--rounds", type=int, help="at most so many rounds of each comparison, for a quick look")


def pytest_configure(config: pytest.Config) -> None:  # noqa: D103 (a hook)
    config.stash[_noted] = []
    torch.set_grad_enabled(False)
    keep_freed_memory()  # as commands do


@pytest.fixture
def in_turn(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Callable[..., dict[str, list[Any]]]:
    """Returns a function that measures several sides in rounds after a warm-up."""

    def measure(sides: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 1) -> dict[str, list[Any]]:
        once, rounds = Rounds(sides), min(rounds, request.config.getoption("rounds") or rounds)
        benchmark.pedantic(once, rounds=rounds, warmup_rounds=warm_up)
        return {name: measured[-rounds:] for name, measured in once.measured.items()}

    return measure


@pytest.fixture
def found(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> Callable[..., None]:
    """Returns a function that records results, and fails if a promise is broken by the whole interval."""

    def note(*some: Result) -> None:
        for result in some:
            benchmark.extra_info[result.name] = result.estimate._asdict()
            if benchmark.enabled:
                results.note(result)
                request.config.stash[_noted].append(result.name)
        missed = [result.name for result in some if result.verdict == MISSED]
        assert not missed, f"promised and not kept: {'; '.join(missed)}"

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:  # noqa: D103
    if config.stash[_noted]:
        results.render()
        terminalreporter.write_sep("=", f"noted in {results.RESULTS.name} and {results.README.name}")
        terminalreporter.write_line(results.summary(config.stash[_noted]))
