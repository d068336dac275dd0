"""Ctrl-C ends a command with one line, and the same command resumes; progress bars are for terminals."""

import os
import pty
import signal
import sys
import termios
from contextlib import suppress
from dataclasses import dataclass

import pytest

from foveate.cli import run
from foveate.compressors import Identity, VisionCompressor
from foveate.core.errors import OutputError
from foveate.core.progress import bar
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.records import RecordFolder
from foveate.options import Flat, Options
from foveate.scorers import Random
from tests.faults.commands import COMMANDS, OUT, Running, finished, prepared
from tests.scripts import run as run_script
from tests.scripts import start

batches: list[int] = []


@pytest.fixture(autouse=True)
def heard():
    """Ctrl-C, also where these tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class Pressing(Random):
    """Has Ctrl-C pressed while it scores the second batch."""

    def score(self, trace):
        batches.append(trace.patches)
        if len(batches) == 2:
            signal.raise_signal(signal.SIGINT)
        return super().score(trace)


def test_ctrl_c_loses_the_running_batch_alone_and_python_hears_the_next_one(tiny, tmp_path):
    batches.clear()
    config = EvalConfig(
        VisionCompressor(Pressing(), 9), model=tiny, limit=56, batch_size=14, max_new_tokens=2, out=tmp_path
    )
    with pytest.raises(KeyboardInterrupt):
        evaluate(config)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # Lightning had it ignored
    (folder,) = (tmp_path / "records").iterdir()
    assert len(RecordFolder(folder).done()) == 14
    assert evaluate(config).read().num_rows == 56
    assert len(batches) == 1 + 4  # the interrupted batch runs again, the first one does not


def test_an_error_of_code_in_c_at_ctrl_c_counts_as_ctrl_c_although_it_has_no_cause(monkeypatch, capsys, tmp_path):
    def main(options: Flat = Options("study")) -> None:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise ValueError("Invalid affine transformation matrix")

    monkeypatch.setattr(sys, "argv", ["study", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "\nstopped; the same command resumes\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OutputError])
def test_an_error_that_a_library_raises_at_ctrl_c_counts_as_ctrl_c(error, monkeypatch, capsys, tmp_path):
    def main(options: Flat = Options("study")) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise error("while it was at work") from None

    monkeypatch.setattr(sys, "argv", ["study", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "\nstopped; the same command resumes\n"


def test_a_command_that_is_stopped_ends_with_one_line_and_resumes(tmp_path):
    command = COMMANDS["compare_methods"]
    running = Running(command, prepared(tmp_path / "folder"))
    while not list(tmp_path.glob(f"folder/{OUT}/records/*/part-*")):
        assert running.works(0.0), running.printed
    running.process.send_signal(signal.SIGINT)
    assert running.ends(60)
    assert running.process.returncode == 130, running.printed
    before, *lines = [line for line in running.printed.splitlines() if line]
    assert before.startswith("model ") and lines == ["stopped; the same command resumes"]
    finished(command, tmp_path / "folder")


def test_bars_are_shown_in_a_terminal_and_nowhere_else(tiny, tmp_path):
    command = ["ablate_layers", "--model", tiny, "--limit", "12"]
    command += ["--keep", "16", "--layers", "0", "--max-new-tokens", "2", "--logger", "--out"]
    piped = run_script(*command, str(tmp_path / "a"))
    assert piped.returncode == 0
    assert "\r" not in piped.stderr
    line, *_ = piped.stderr.splitlines()
    assert line.startswith(f"model {tiny}: 144 patches per image, float32 on cpu; 12 questions of scenes, ")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (25, 80))
    process = start(*command, str(tmp_path / "b"), streams={"stderr": theirs})
    os.close(theirs)
    shown = b""
    while part := _read(ours):
        shown += part
    assert process.wait() == 0
    os.close(ours)
    assert f"Results go to {tmp_path / 'b'}/. Ctrl-C ends the run; the same command resumes.".encode() in shown
    assert b"trial/s]" in shown or b"s/trial]" in shown


def test_a_short_step_shows_no_bar(capsys):
    with bar(2, "step", disable=False) as shown:
        shown.update(2)
    assert capsys.readouterr().err == ""
    with bar(2, "step", disable=False, delay=0, mininterval=0) as shown:
        shown.update(2)
    assert "2/2" in capsys.readouterr().err


def test_questions_are_counted(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "foveate.evaluation.answering.bar", lambda *args, **options: bar(*args, disable=False, delay=0, mininterval=0)
    )
    evaluate(EvalConfig(Identity(), model=tiny, limit=28, batch_size=14, max_new_tokens=1, out=tmp_path))
    assert "14/28" in (shown := capsys.readouterr().err)
    assert "question" in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux's end of file when the other side has closed
        return b""
