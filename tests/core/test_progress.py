"""Progress without a terminal; bars in a terminal are tested in `tests/evaluation/test_interruption.py`."""

import re
import time

import pytest

from foveate.core import progress
from foveate.core.progress import bar, bars_visible


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(progress, "LINES_EVERY_S", 0.01)


def slow_steps(count):
    for step in range(count):
        time.sleep(0.02)
        yield step


def test_without_a_terminal_progress_is_whole_lines(often, capsys):
    assert list(bar(slow_steps(3), "question", "mean scores", total=3)) == [0, 1, 2]
    said = capsys.readouterr().err
    assert said.endswith("\n") and "\r" not in said and "\x1b" not in said
    line = r"mean scores: \d of 3, +[\d.]+ question/s, \d\d:\d\d gone, \d\d:\d\d left"
    assert said.splitlines() and all(re.fullmatch(line, one) for one in said.splitlines())


def test_inner_progress_breaks_no_line_of_the_outer(often, capsys):
    with bar(2, "trial", delay=0, leave=True) as trials:
        for _ in range(2):
            list(bar(slow_steps(2), "question"))
            trials.update()
    said = capsys.readouterr().err
    assert "1 of 2" in said and " trial/s" in said
    assert all(re.match(r"\d of [2?], ", line) for line in said.splitlines())


def test_short_work_writes_no_line(capsys):
    with bar(2, "trial", delay=0, miniters=1, leave=True) as trials:
        trials.update(2)
    list(bar(range(100), "step"))
    assert capsys.readouterr().err == ""
    assert not bars_visible()


def test_a_process_whose_progress_another_one_shows_writes_none(often, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_disabled", True)
    list(bar(slow_steps(3), "question"))
    assert capsys.readouterr().err == ""
