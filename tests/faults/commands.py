"""The real command lines, small enough to be run hundreds of times, in processes that can be disturbed.

Importing the libraries takes longer than such a command and writes nothing. So a server process imports them once, and
every run of a command is a fork of it that executes the script as `python experiments/NAME.py` would.
"""

import ctypes
import os
import resource
import runpy
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "src" / "foveate" / "reference" / "llava"
OUT = "runs"
PATIENCE_S = 300  # after which a command that should end counts as hanging

_LIBRARIES = "tests.faults.libraries"
_SERVER = get_context("forkserver")
_SERVER.set_forkserver_preload([_LIBRARIES])
_PASS_OVER_PERMISSIONS = 1  # Linux's number of CAP_DAC_OVERRIDE


@dataclass(frozen=True)
class Command:
    """One of the experiments with few questions.

    Attributes:
        script: Its name.
        options: Besides model and place.
        tables: What must not differ by a byte, below the folder of results.
    """

    script: str
    options: tuple[str, ...]
    tables: tuple[str, ...]

    def arguments(self) -> list[str]:
        return [str(ROOT / "experiments" / f"{self.script}.py"), "--model", "model", "--out", OUT, *self.options]

    def results(self, folder: Path) -> dict[str, bytes]:
        """What the command has found, by table; a missing one is empty."""
        paths = {table: folder / OUT / table for table in self.tables}
        return {table: path.read_bytes() if path.exists() else b"" for table, path in paths.items()}


COMMANDS = {
    "ablate_layers": Command(
        "ablate_layers",
        ("--limit", "12", "--batch-size", "6", "--keep", "16", "--layers", "0"),
        ("ablate_layers/table.csv",),
    ),
    "search_weights": Command(
        "search_weights",
        ("--limit", "12", "--batch-size", "6", "--trials", "5", "--rung", "none"),
        ("search_weights/table.csv",),
    ),
    "measure_bias": Command(
        "measure_bias",
        ("--limit", "9", "--batch-size", "3", "--side", "12", "--shares", "0.1", "--no-head-rows"),
        ("measure_bias/table.csv", "measure_bias/contrasts.csv"),
    ),
    "compare_methods": Command(
        "compare_methods",
        ("--limit", "12", "--batch-size", "6", "--keep", "16", "--methods", "vtc_cls"),
        ("compare_methods/table.csv",),
    ),
}


class Running:
    """A command under way in a folder, which holds the model as well."""

    def __init__(self, command: Command, folder: Path, largest_file: int | None = None, obedient: bool = False) -> None:
        self.log = folder / f"log-{time.monotonic_ns()}.txt"
        self.process = _SERVER.Process(
            target=_execute, args=(command.arguments(), folder, self.log, largest_file, obedient)
        )
        self.process.start()

    def computes(self) -> float:
        """Waits until it has ended; returns for how long it computed, in seconds."""
        used = 0.0
        with suppress(psutil.Error):
            process = psutil.Process(self.process.pid)
            while self.process.exitcode is None:
                used = _seconds(process)
                self.process.join(0.02)
        self.process.join()
        return used

    def works(self, seconds: float) -> bool:
        """Waits until it has computed for so long, whatever else the machine does; false if it ends before."""
        with suppress(psutil.Error):
            process = psutil.Process(self.process.pid)
            while self.process.exitcode is None:
                if _seconds(process) >= seconds:
                    return True
                time.sleep(0.005)
        return False

    def ends(self, seconds: float = PATIENCE_S) -> bool:
        """Whether it ends within so many seconds; one that does not is killed."""
        self.process.join(seconds)
        if self.process.exitcode is not None:
            return True
        self.process.kill()
        self.process.join()
        return False

    @property
    def printed(self) -> str:
        return self.log.read_text(errors="replace")


def _seconds(process: psutil.Process) -> float:
    used = process.cpu_times()
    return used.user + used.system


def prepared(folder: Path, model: Path = REFERENCE) -> Path:
    """An empty place for a command, with the model."""
    folder.mkdir(parents=True)
    (folder / "model").symlink_to(model, target_is_directory=True)
    return folder


def copied(source: Path, folder: Path) -> Path:
    """Results as a command has left them, in another place."""
    shutil.copytree(source / OUT, prepared(folder) / OUT)
    return folder


def finished(command: Command, folder: Path) -> str:
    """Runs a command to its end; returns what it printed.

    Raises:
        AssertionError: It hangs or fails.
    """
    running = Running(command, folder)
    assert running.ends(), f"{command.script} hangs in {folder}:\n{running.printed[-2000:]}"
    assert running.process.exitcode == 0, f"{command.script} failed in {folder}:\n{running.printed[-2000:]}"
    return running.printed


def _execute(arguments: list[str], folder: Path, log: Path, largest_file: int | None, obedient: bool) -> None:
    assert _LIBRARIES in sys.modules, f"start from {ROOT}: the server could not import {_LIBRARIES}"
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored by what runs in the background
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if obedient and os.geteuid() == 0:
        _obey_permissions()
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


def _obey_permissions() -> None:
    """Root may write whatever the permissions say; this process no longer, like that of any other user."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    sets[0] &= ~(1 << _PASS_OVER_PERMISSIONS)  # of those in effect
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")
