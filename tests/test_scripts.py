"""What is forked starts and ends as an interpreter of its own does, and nothing is left behind."""

import os
import signal
import socket
import subprocess
import sys

import psutil
import pytest

from tests import scripts
from tests.scripts import ROOT, run, start, wait_for
from tests.services import wait_until

NO_LIBRARIES = "import sys, types; sys.modules['tests.libraries'] = types.ModuleType('tests.libraries'); "
CODES = {
    "arguments": "import sys; print(sys.argv, sys.path[0], __name__)",
    "environment": "import os; print(os.environ['GIVEN'], os.environ['OMP_NUM_THREADS'], os.getcwd())",
    "status": "import sys; print('said'); sys.exit(3)",
    "message": "raise SystemExit('cannot be')",
    "error": "1 / 0",
    "at exit": "import atexit; atexit.register(print, 'later'); print('first')",
    "thread": "import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('later'))).start()",
    "Ctrl-C": "import signal, time; signal.raise_signal(signal.SIGINT); time.sleep(9)",
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "warning": "import warnings; warnings.warn('careful'); warnings.warn('old', DeprecationWarning)",
}


def ended(process):
    last = process.stderr.strip().splitlines()
    return process.returncode, process.stdout, last[-1] if last else ""


@pytest.mark.parametrize("what", CODES)
def test_it_starts_and_ends_like_an_interpreter_of_its_own(what, tmp_path):
    given, code = {"GIVEN": "a value"}, CODES[what]
    command, env = [sys.executable, "-c", code, "--option"], {**os.environ, **given}
    hears = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    fresh = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, **hears)
    forked = run("-c", code, "--option", folder=tmp_path, environment=given)
    if what == "Ctrl-C":  # of a `-c` that ends so Python says 1 or -2, by version
        assert fresh.returncode and forked.returncode == -signal.SIGINT
        fresh.returncode = forked.returncode
    assert ended(forked) == ended(fresh)


def test_a_script_finds_what_lies_beside_it_and_on_the_path(tmp_path):
    for name in ("beside", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").write_text("WORD = __name__")
    (tmp_path / "beside" / "script.py").write_text("import beside, elsewhere; print(beside.WORD, elsewhere.WORD)")
    found = run(tmp_path / "beside" / "script.py", environment={"PYTHONPATH": str(tmp_path / "elsewhere")})
    assert (found.returncode, found.stdout) == (0, "beside elsewhere\n"), found.stderr


def test_libraries_are_there_and_shapes_are_not_checked():
    code = "import sys; print('foveate.functional.ranking' in sys.modules, [type(f).__module__ for f in sys.meta_path])"
    told = run("-c", code).stdout
    assert told.startswith("True") and "jaxtyping" not in told


def test_it_can_be_asked_while_it_works_and_killed():
    process = start("-c", "import time; print('at work', flush=True); time.sleep(60)")
    wait_for(process, lambda: process.stdout == "at work\n")
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == process.poll() == -signal.SIGTERM
    process.send_signal(signal.SIGTERM)  # of one that has ended says nothing


def test_one_that_ends_too_early_is_no_endless_wait():
    process = start("-c", "print('over')")
    with pytest.raises(AssertionError, match="it ended too early: over"):
        wait_for(process, lambda: False)


def test_a_server_and_its_forks_end_with_who_asks(monkeypatch):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-c", NO_LIBRARIES + scripts._SERVER, str(theirs.fileno())]
    with subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()]) as server:
        theirs.close()
        monkeypatch.setattr(scripts, "_server", lambda _: ours)
        process = start("-c", "import time; time.sleep(60)")
        fork = psutil.Process(process.pid)
        assert fork.ppid() == server.pid
        ours.close()
        assert server.wait(30) == 0
    wait_until(lambda: not fork.is_running() or fork.status() == psutil.STATUS_ZOMBIE, 30, "the fork to end")
