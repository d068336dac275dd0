"""Notices before the first question and after the first runs."""

import pytest

from foveate.commands import answer
from foveate.compressors import Identity
from foveate.evaluation import EvalConfig, announcement
from foveate.evaluation.announcement import Announced, duration
from foveate.options import Options


@pytest.fixture
def config(tiny):
    return EvalConfig(Identity(), model=tiny, limit=12, batch_size=5)


@pytest.fixture
def clock(monkeypatch):
    """The seconds that `announcement` reads, which the test sets."""
    now = [0.0]
    monkeypatch.setattr(announcement.time, "monotonic", lambda: now[0])
    return now


def test_before_the_first_run_one_line_says_what_will_be_run(config, tiny, capsys):
    Announced(config, 3)
    assert capsys.readouterr().err == (
        f"model {tiny}: 144 patches per image, float32 on cpu; 12 questions of scenes, 5 per batch; "
        "3 runs, one per compressor\n"
    )


def test_the_answers_to_a_benchmark_are_announced_with_their_method(tiny, tmp_path, capsys):
    answer.main(
        "vtc_cls", 0.25, Options("answers", model=(tiny,), limit=2, batch_size=2, max_new_tokens=1, out=tmp_path)
    )
    first, *_ = capsys.readouterr().err.splitlines()
    assert first == (
        f"model {tiny}: 144 patches per image, float32 on cpu; 2 questions of scenes, 2 per batch; "
        "method vtc_cls at 0.25"
    )


def test_where_nothing_is_left_nothing_is_said(config, capsys):
    Announced(config, 0, 5).ended(5)
    assert capsys.readouterr().err == ""


def test_the_time_of_the_others_is_said_once_from_the_first_run_if_that_was_long(config, clock, capsys):
    announced = Announced(config, 11, done=2)
    capsys.readouterr()
    announced.ended(2)
    clock[0] = 90
    announced.ended(3)
    announced.ended(4)
    assert capsys.readouterr().err == "10 of 11 runs are left; they need about 15 min 0 s\n"


def test_a_short_first_run_with_what_is_done_once_does_not_count(config, clock, capsys):
    announced = Announced(config, 11)
    capsys.readouterr()
    clock[0] = 30
    announced.ended(1)
    assert capsys.readouterr().err == ""
    clock[0] = 35
    announced.ended(2)
    assert capsys.readouterr().err == "9 of 11 runs are left; they need about 45 s\n"


def test_runs_that_were_over_at_once_give_no_estimate(config, clock, capsys):
    announced = Announced(config, 11)
    capsys.readouterr()
    clock[0] = 0.01
    announced.ended(1)
    announced.ended(2)
    assert capsys.readouterr().err == ""


def test_durations_have_two_units():
    assert [duration(s) for s in (3.4, 61, 3_900)] == ["3 s", "1 min 1 s", "1 h 5 min"]
