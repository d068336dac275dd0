"""The real command lines, small enough to be run hundreds of times, in processes that can be disturbed."""

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import TimeoutExpired

import psutil

from tests.scripts import ROOT, start

REFERENCE = ROOT / "src" / "foveate" / "reference" / "llava"
OUT = "runs"
PATIENCE_S = 300  # after which a command that should end counts as hanging

_NO_LARGER_FILE = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY))
"""
# Root may write whatever the permissions say; this process no longer, like that of any other user.
_OBEYS_PERMISSIONS = """
import ctypes, os
if os.geteuid() == 0:
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    sets[0] &= ~(1 << 1)  # Linux's number of CAP_DAC_OVERRIDE, of those in effect
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")
"""


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
        ("--limit", "12", "--batch-size", "6", "--trials", "5", "--proxy", "none"),
        ("search_weights/table.csv",),
    ),
    "measure_bias": Command(
        "measure_bias",
        ("--limit", "9", "--batch-size", "3", "--side", "12", "--shares", "0.1", "--no-head-rows", "--no-corrections"),
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
        before = "" if largest_file is None else _NO_LARGER_FILE.format(size=largest_file)
        before += _OBEYS_PERMISSIONS if obedient else ""
        self.process = start(*command.arguments(), folder=folder, before=before)

    def computes(self) -> float:
        """Waits until it has ended; returns for how long it computed, in seconds."""
        used = 0.0
        with suppress(psutil.Error):
            process = psutil.Process(self.process.pid)
            while self.process.poll() is None:
                used = _seconds(process)
                time.sleep(0.02)
        self.process.wait()
        return used

    def works(self, seconds: float) -> bool:
        """Waits until it has computed for so long, whatever else the machine does; false if it ends before."""
        with suppress(psutil.Error):
            process = psutil.Process(self.process.pid)
            while self.process.poll() is None:
                if _seconds(process) >= seconds:
                    return True
                time.sleep(0.005)
        return False

    def ends(self, seconds: float = PATIENCE_S) -> bool:
        """Whether it ends within so many seconds; one that does not is killed."""
        try:
            self.process.wait(seconds)
        except TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return False
        return True

    @property
    def printed(self) -> str:
        return self.process.stdout + self.process.stderr


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
    assert running.process.returncode == 0, f"{command.script} failed in {folder}:\n{running.printed[-2000:]}"
    return running.printed
