"""Ctrl-C: once finishes the batch and saves it, twice stops at once; bars are for those who see them."""

import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from foveate.cli import run
from foveate.compressors import Identity, VisionCompressor
from foveate.core.errors import OutputError
from foveate.core.progress import bar
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.interruption import Interrupted, hear_nothing_more, interruptible, overhear_nothing
from foveate.evaluation.records import RecordFolder
from foveate.options import Flat, Options
from foveate.scorers import Random
from tests.faults.commands import COMMANDS, OUT, Running, finished, prepared
from tests.scripts import run as run_script
from tests.scripts import start

asked: list[int] = []


@pytest.fixture(autouse=True)
def heard():
    """Ctrl-C, also where these tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def hook(monkeypatch):
    """What these tests change."""
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)


@dataclass(frozen=True)
class Pressing(Random):
    """Has Ctrl-C pressed while it scores the second batch."""

    times: int = 1

    def score(self, trace):
        asked.append(trace.patches)
        if len(asked) == 2:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)
        return super().score(trace)


@pytest.mark.parametrize(("times", "saved"), [(1, 2), (2, 1)])
def test_ctrl_c_once_saves_the_batch_and_twice_does_not(times, saved, tiny, tmp_path, capfd):
    asked.clear()
    compressor = VisionCompressor(Pressing(times=times), 9)
    config = EvalConfig(compressor, model=tiny, limit=48, batch_size=12, max_new_tokens=2, out=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert "stops when this batch is saved" in capfd.readouterr().err
    (folder,) = (tmp_path / "records").iterdir()
    assert len(RecordFolder(folder).done()) == 12 * saved
    assert not list(folder.glob(".part-*"))
    assert evaluate(config).read().num_rows == 48  # asked for the second time only once
    assert len(asked) == 1 + 4 - saved + 1


def test_ctrl_c_after_the_last_batch_is_heard_as_well():
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_is_heard_by_who_writes_into_a_pipe_that_nobody_reads_any_more():
    reads, writes = os.pipe()
    os.close(reads)
    before = os.dup(2)
    os.dup2(writes, 2)
    done = []
    try:
        with pytest.raises(KeyboardInterrupt), interruptible() as leave:
            signal.raise_signal(signal.SIGINT)
            done.append("the batch")
            leave()
            done.append("another one")
    finally:
        os.dup2(before, 2)
        for end in (before, writes):
            os.close(end)
    assert done == ["the batch"]


class _Destroyed:
    def __init__(self, end: Callable[[], object]) -> None:
        self.end = end

    def __del__(self) -> None:
        self.end()


def test_ctrl_c_in_a_destructor_is_heard_a_moment_later(hook):
    overhear_nothing()
    destroyed = _Destroyed(lambda: signal.raise_signal(signal.SIGINT))
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        del destroyed  # which raises nothing
        time.sleep(60)
    assert time.monotonic() - start < 30


def test_other_errors_in_destructors_are_said_unless_ctrl_c_was_pressed(hook, capsys):
    def fail() -> None:
        raise RuntimeError("half done")

    overhear_nothing()
    _Destroyed(fail)
    assert "half done" in capsys.readouterr().err
    hear_nothing_more()
    _Destroyed(fail)
    assert capsys.readouterr().err == ""


def test_ctrl_c_while_the_interpreter_ends_ends_it_without_a_traceback_after_all_is_said():
    lines = (
        "import atexit, signal",
        "from foveate.evaluation.interruption import overhear_nothing",
        "signal.signal(signal.SIGINT, signal.default_int_handler)",
        "atexit.register(signal.raise_signal, signal.SIGINT)",
        "overhear_nothing()",
        "print('all is said')",
    )
    ended = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "all is said\n", "")


def _pressed_in_a_library(theirs: type[Exception] | type[KeyboardInterrupt]) -> None:
    """One that answers with an error of its own, or, as it should, does not."""
    try:
        signal.raise_signal(signal.SIGINT)
    except (KeyboardInterrupt, Interrupted):
        raise theirs("while it was at work") from None


def test_a_second_ctrl_c_that_a_library_answers_with_an_error_is_still_ctrl_c():
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(signal.SIGINT)
        _pressed_in_a_library(RuntimeError)


@pytest.mark.parametrize("theirs", [KeyboardInterrupt, RuntimeError, OutputError])
def test_ctrl_c_that_a_library_answers_with_an_error_is_still_ctrl_c(theirs, hook, monkeypatch, capsys, tmp_path):
    def main(options: Flat = Options("study")) -> None:
        _pressed_in_a_library(theirs)

    monkeypatch.setattr(sys, "argv", ["study", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == 130
    assert f"stopped: what is finished is kept in {tmp_path}/" in capsys.readouterr().err


def test_a_command_without_a_place_for_results_is_stopped_as_well(hook, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["measure"])
    with pytest.raises(SystemExit) as ended:
        run(lambda: _pressed_in_a_library(RuntimeError))
    assert ended.value.code == 130
    assert capsys.readouterr().err == "\nstopped\n"


STOPS = "def main() -> None:\n    print('half of a table')\n    signal.raise_signal(signal.SIGINT)"
BROKEN = "error: [Errno 32] Broken pipe. What is finished is kept: mend that and run the same command again\n"


@pytest.mark.parametrize(
    ("lines", "unbuffered", "status", "says"),
    [
        ([STOPS], "", 130, "\nstopped\n"),
        ([STOPS, "atexit.register(signal.raise_signal, signal.SIGINT)"], "", -signal.SIGINT, "\nstopped\n"),
        (["def main() -> None:\n    print('a table')"], "1", 2, BROKEN),
    ],
    ids=["stopped", "stopped twice", "not stopped"],
)
def test_a_command_whose_output_nobody_reads_ends_with_one_line(lines, unbuffered, status, says):
    head = ("import atexit, signal", "from foveate.cli import run")
    heard = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    reads, writes = os.pipe()
    os.close(reads)
    ended = subprocess.run(
        [sys.executable, "-c", "\n".join([*head, heard, *lines, "run(main)"])],
        stdout=writes,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        check=False,
    )
    os.close(writes)
    assert (ended.returncode, ended.stderr) == (status, says)


def test_who_has_ctrl_c_ignored_or_is_another_thread_goes_on():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible() as leave:
            signal.raise_signal(signal.SIGINT)
            leave()
    finally:
        signal.signal(signal.SIGINT, before)

    def elsewhere() -> None:
        with interruptible() as leave:
            leave()

    with ThreadPoolExecutor() as thread:
        thread.submit(elsewhere).result()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_command_that_is_stopped_says_how_to_go_on(tmp_path):
    command = COMMANDS["compare_methods"]
    running = Running(command, prepared(tmp_path / "place"))
    while not list(tmp_path.glob(f"place/{OUT}/records/*/part-*")):
        assert running.works(0.0), running.printed
    running.process.send_signal(signal.SIGINT)
    assert running.ends(60)
    assert running.process.returncode == 130, running.printed
    assert f"stopped: what is finished is kept in {OUT}/, and the same command goes on" in running.printed
    assert "Traceback" not in running.printed
    finished(command, tmp_path / "place")


def test_bars_are_shown_in_a_terminal_and_nowhere_else(tiny, tmp_path):
    command = ["ablate_layers", "--model", tiny, "--limit", "12"]
    command += ["--keep", "16", "--layers", "0", "--max-new-tokens", "2", "--logger", "--out"]
    piped = run_script(*command, str(tmp_path / "a"))
    assert (piped.returncode, piped.stderr) == (0, "")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (25, 80))
    process = start(*command, str(tmp_path / "b"), streams={"stderr": theirs})
    os.close(theirs)
    shown = b""
    while part := _read(ours):
        shown += part
    assert process.wait() == 0
    os.close(ours)
    assert f"Results go to {tmp_path / 'b'}/. Ctrl-C ends the run after a batch".encode() in shown
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
    evaluate(EvalConfig(Identity(), model=tiny, limit=24, batch_size=12, max_new_tokens=1, out=tmp_path))
    assert "12/24" in (shown := capsys.readouterr().err)
    assert "question" in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # which is how Linux says that the other side has closed
        return b""
