"""The load test: its clients, its limits, and the command with two servers."""

import time
from itertools import pairwise

import pandas as pd
import pytest

from foveate import load_samples
from foveate.core.errors import OptionError
from foveate.methods import pool
from foveate.serving.generator import check_loopback
from foveate.serving.load import Load, clients
from foveate.serving.requests import bodies_of
from tests.scripts import run
from tests.serving.served import serving
from tests.tiers import extended

LOADTEST = "import sys; sys.argv[:1] = ['foveate', 'loadtest']; from foveate.__main__ import main; main()"


@pytest.fixture(scope="module")
def bodies():
    return bodies_of("reference", load_samples("scenes", "test", limit=1), 5)


@pytest.fixture(scope="module")
def server():
    with serving("full") as found:
        yield found


@pytest.fixture(scope="module")
def asking():
    with clients() as found:
        yield found


def test_every_request_of_a_load_is_answered_once_with_all_its_tokens(server, asking, bodies):
    rows = asking.ask(Load(server.url, 4, 9, 20, bodies))
    assert [row["error"] for row in rows] == [""] * 9
    assert {row["tokens"] for row in rows} == {5}
    assert all(row["began"] < row["first"] < row["last"] <= row["ended"] for row in rows)


def test_requests_of_several_clients_wait_for_one_model(server, asking, bodies):
    rows = asking.ask(Load(server.url, 4, 12, 20, bodies))
    spans = sorted((row["first"], row["last"]) for row in rows)
    assert all(last <= first for (_, last), (first, _) in pairwise(spans))


def test_a_load_ends_in_time(server, asking, bodies):
    began = time.monotonic()
    rows = asking.ask(Load(server.url, 2, 10**6, 0.3, bodies))
    assert 0 < len(rows) < 100 and time.monotonic() - began < 10


def test_a_request_that_fails_is_a_row_with_the_reason(server, asking, bodies):
    wrong = [{**body, "model": "other"} for body in bodies]
    rows = asking.ask(Load(server.url, 1, 2, 10, wrong))
    assert len(rows) == 2 and all("pinned to 'reference'" in row["error"] for row in rows)


@pytest.mark.parametrize("url", ["http://192.0.2.1:80/v1", "http://example.org/v1", "nothing"])
def test_other_machines_are_not_asked(url):
    with pytest.raises(OptionError, match="on this machine alone"):
        check_loopback(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/v1", "http://[::1]:8000/v1"])
def test_this_machine_may_be_asked(url):
    check_loopback(url)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("full --concurrency 0", "expected numbers of clients"),
        ("full --requests 3", "at least one for each of 16 clients"),
        ("full --seconds 0", "seconds=0"),
        ("fastvv", "did you mean"),
    ],
)
def test_an_option_out_of_range_is_an_error(options, reason):
    ended = run("-c", LOADTEST, *options.split(), timeout=60)
    assert ended.returncode == 2 and reason in ended.stderr


@extended("servers")
def test_the_command_writes_a_table_of_both_servers(tmp_path):
    pool(keep=36).save(tmp_path / "pool.json")
    options = "--concurrency 1 4 --requests 4 --rounds 2 --new-tokens 3".split()
    ended = run("-c", LOADTEST, tmp_path / "pool.json", *options, "--out", tmp_path, timeout=200)
    assert ended.returncode == 0, ended.stderr
    table = pd.read_csv(tmp_path / "loadtest/table.csv")
    assert table[["concurrency", "method"]].values.tolist() == [[1, "full"], [1, "pool"], [4, "full"], [4, "pool"]]
    assert table["n"].tolist() == [8] * 4 and not table["failed"].any()
    assert set(table["verdict"]) <= {"baseline", "faster", "slower", "not significant"}
    assert "| pool | 4 | 2 | 8 | 0 |" in (tmp_path / "loadtest/table.md").read_text()
