"""The faults: each is a context in which a folder is as the fault has left it.

A fault is given a scene, an empty or copied folder, random numbers, and `when`, a place in (0, 1) in the course of the
command or among sizes. It yields the paths that the next run of the command must name and set aside.
"""

import shutil
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foveate.core.storage import checksum
from tests.faults.commands import OUT, REFERENCE, Command, Running, copied, finished, prepared

ENDS_S = 120  # after a signal, or when the disk is full
SIZES = {"largest file": (4_000, 400_000), "disk": (100_000, 900_000)}  # bytes


class Missed(Exception):
    """The command was done before the fault could strike."""


class Lost(Exception):
    """The command did something else than ending in order."""


@dataclass(frozen=True)
class Scene:
    """A command, and what undisturbed runs of it are like.

    Attributes:
        command: What is run.
        whole: Folder of a run that was not disturbed.
        half: Folder of one that was killed when the first records were there.
        expected: Its tables.
        seconds: That it computes.
    """

    command: Command
    whole: Path
    half: Path
    expected: dict[str, bytes]
    seconds: float


Injection = Callable[[Scene, Path, np.random.Generator, float], AbstractContextManager[Sequence[Path]]]


def set_scene(command: Command, folder: Path) -> Scene:
    """Runs a command undisturbed, and once until the first records are there."""
    whole, half = prepared(folder / "whole"), prepared(folder / "half")
    running = Running(command, whole)
    seconds = running.computes()
    expected = command.results(whole)
    assert running.process.returncode == 0 and all(expected.values()), running.printed
    beginning = Running(command, half)
    while len([*half.glob(f"{OUT}/records/*/part-*"), *half.glob(f"{OUT}/bias/*/part-*")]) < 2:
        assert beginning.works(0.0), f"{command.script} ended before it could be killed: {beginning.printed}"
    beginning.process.kill()
    beginning.process.wait()
    return Scene(command, whole, half, expected, seconds)


def killed(number: signal.Signals) -> Injection:
    """A signal at a moment of the run."""

    @contextmanager
    def inject(scene: Scene, folder: Path, rng: np.random.Generator, when: float) -> Iterator[Sequence[Path]]:
        running = Running(scene.command, prepared(folder))
        if not running.works(when * scene.seconds):
            raise Missed
        running.process.send_signal(number)
        if not running.ends(ENDS_S):
            raise Lost(f"does not end after {number.name}")
        if number == signal.SIGINT and "Traceback" in running.printed:
            raise Lost(f"answers Ctrl-C with a traceback: {running.printed[-1500:]}")
        yield ()

    return inject


@contextmanager
def large_files_forbidden(
    scene: Scene, folder: Path, rng: np.random.Generator, when: float
) -> Iterator[Sequence[Path]]:
    """No file can grow beyond a limit."""
    _refused(Running(scene.command, prepared(folder), largest_file=_between("largest file", when)))
    yield ()


@contextmanager
def full_disk(scene: Scene, folder: Path, rng: np.random.Generator, when: float) -> Iterator[Sequence[Path]]:
    """A disk of its own that is too small."""
    disk = prepared(folder) / OUT
    disk.mkdir()
    size = _between("disk", when)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
    try:
        _refused(Running(scene.command, folder))
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        yield ()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@contextmanager
def permission_removed(scene: Scene, folder: Path, rng: np.random.Generator, when: float) -> Iterator[Sequence[Path]]:
    """At a moment of the run nothing can be written any more. Root's command is made to obey permissions."""
    running = Running(scene.command, prepared(folder), obedient=True)
    if not running.works(when * scene.seconds):
        raise Missed
    _permit(folder, False)
    try:
        _refused(running)
    finally:
        _permit(folder, True)
    yield ()


def damaged(pattern: str, cut: bool, half: bool = False) -> Injection:
    """One file is cut short, or has one bit turned over.

    Args:
        pattern: Of the files among which chance chooses.
        cut: Whether it is cut.
        half: Whether the run was not finished when it happened.
    """

    @contextmanager
    def inject(scene: Scene, folder: Path, rng: np.random.Generator, when: float) -> Iterator[Sequence[Path]]:
        copied(scene.half if half else scene.whole, folder)
        found = sorted(path for path in (folder / OUT).glob(pattern) if path.stat().st_size)
        path = found[rng.integers(len(found))]
        spoil(path, cut, rng)
        yield [_set_aside_with(path)]

    return inject


def weights_damaged(cut: bool) -> Injection:
    """The command is run with damaged weights, which are mended then."""

    @contextmanager
    def inject(scene: Scene, folder: Path, rng: np.random.Generator, when: float) -> Iterator[Sequence[Path]]:
        copied(scene.whole, folder)
        (folder / "model").unlink()
        shutil.copytree(REFERENCE, folder / "model")
        weights = folder / "model" / "model.safetensors"
        before = checksum(folder / OUT / "records") if (folder / OUT / "records").exists() else ""
        spoil(weights, cut, rng)
        running = Running(scene.command, folder)
        if not running.ends():
            raise Lost("hangs with damaged weights")
        told = "error: " in running.printed and "Traceback" not in running.printed
        if running.process.returncode != 0 and not told:
            raise Lost("does not say what is wrong with the weights")
        if cut and running.process.returncode == 0:
            raise Lost("does not notice that weights are missing")
        if before and checksum(folder / OUT / "records") != before and running.process.returncode != 0:
            raise Lost("has touched the records of another checkpoint")
        shutil.copy(REFERENCE / "model.safetensors", weights)
        yield ()

    return inject


@contextmanager
def two_at_once(scene: Scene, folder: Path, rng: np.random.Generator, when: float) -> Iterator[Sequence[Path]]:
    """The same command a second time, while the first is under way."""
    first = Running(scene.command, prepared(folder))
    if not first.works(when * scene.seconds):
        raise Missed
    second = Running(scene.command, folder)
    for running in (first, second):
        if not running.ends() or running.process.returncode:
            raise Lost(f"two at once: {running.printed[-300:]}")
    yield ()


def spoil(path: Path, cut: bool, rng: np.random.Generator) -> None:
    """Cuts a file short or turns one bit over."""
    content = bytearray(path.read_bytes())
    if cut:
        del content[rng.integers(len(content)) :]
    else:
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def run_again(scene: Scene, folder: Path, aside: Sequence[Path]) -> str:
    """Runs the command to its end after a fault; returns what is lost, or nothing.

    Args:
        scene: Of the command.
        folder: As the fault has left it.
        aside: What must be named and set aside.
    """
    spoilt = {path: checksum(path) for path in aside}
    try:
        printed = finished(scene.command, folder)
    except AssertionError as error:
        return str(error)
    if differing := [name for name, table in scene.command.results(folder).items() if table != scene.expected[name]]:
        return f"another {' and '.join(differing)}"
    for path, content in spoilt.items():
        kept = path.with_name(f"{path.name}.damaged-1")
        if f"damaged: {path.relative_to(folder)}" not in printed:
            return f"{path.name} was not named"
        if not kept.exists() or checksum(kept) != content:
            return f"{path.name} was not set aside as it was"
    return ""


def _refused(running: Running) -> None:
    """Waits for a command that cannot write what it has to."""
    if not running.ends(ENDS_S):
        raise Lost("hangs where it cannot write")
    if running.process.returncode == 0:
        raise Missed
    if "error: " not in running.printed or "Traceback" in running.printed:
        raise Lost(f"does not say in one line that it cannot write: {running.printed[-1500:]}")


def _between(name: str, when: float) -> int:
    low, high = SIZES[name]
    return int(low * (high / low) ** when)


def _permit(folder: Path, write: bool) -> None:
    every = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | stat.S_IWUSR if write else mode & ~every)


def _set_aside_with(path: Path) -> Path:
    """Returns what is quarantined when a file is damaged: it, or the folder whose name carries its checksum."""
    stamped = [folder for folder in path.parents if len(folder.suffix) == 17]
    return stamped[0] if stamped else path
