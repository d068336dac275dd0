"""Processes that run one command together, started by torchrun, by srun or by `--workers`.

Every process runs the whole command. Locks on disk give each trial of a study, and each share of a long evaluation, to
one process; the processes send each other nothing. Rank 0 writes the reports.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from warnings import warn

from foveate.core.errors import DeviceError

_VARIABLES = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
_PARENT = "FOVEATE_PARENT"  # process ID, in processes that `start` has started


def rank() -> int:
    """Returns the number of this process among those that run the command, 0 if it runs alone."""
    return _number("RANK", 0)


def world_size() -> int:
    """Returns the number of processes that run the command."""
    return max(_number("WORLD_SIZE", 1), 1)


def notice(text: str) -> None:
    """Prints a line to standard error, once for all processes."""
    if rank() == 0:
        print(text, file=sys.stderr)


def started_elsewhere() -> bool:
    """Returns whether torchrun or srun, and not `--workers`, started several processes."""
    return world_size() > 1 and _PARENT not in os.environ


def shares() -> list[int]:
    """Returns all shares of an evaluation in the order in which this process takes them, its own first."""
    return [(rank() + step) % world_size() for step in range(world_size())]


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, os.environ.get(_VARIABLES[name], ""))
    return int(value) if value.isdecimal() else default


class _Workers:
    """The further processes of this command."""

    def __init__(self) -> None:
        self.missing = 0
        self.started: list[subprocess.Popen[bytes]] = []


_workers = _Workers()


@contextmanager
def workers(count: int, device: str) -> Iterator[None]:
    """Makes this process one of `count`, or of those that torchrun or srun have started.

    The others are started when the work begins (`start`), and awaited when the block ends. Process i uses device i,
    modulo the number of devices that it sees; on a CPU, processes that were started here share its threads.

    Args:
        count: Processes of this command on this machine.
        device: Kind of device, such as "cuda".

    Raises:
        DeviceError: A single device is named for several processes, or there is no such device.
    """
    launched = world_size() > 1
    if count == 1 and not launched:
        yield
        return
    if not launched:
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(count)}
        _workers.missing = count - 1
    try:
        _take_device(device)
        if not launched or _PARENT in os.environ:
            _share_threads()
        if _PARENT in os.environ:
            Thread(target=_end_with, args=(int(os.environ[_PARENT]),), daemon=True).start()
        yield
        codes = [worker.wait() for worker in _workers.started]
        if failed := [code for code in codes if code]:
            warn(
                f"{len(failed)} of {count} processes failed (exit codes {failed}); the others did their work",
                stacklevel=2,
            )
    finally:
        for worker in _workers.started:
            worker.terminate()
        _workers.started, _workers.missing = [], 0
        if not launched:
            for name in _VARIABLES:
                os.environ.pop(name, None)


def start() -> None:
    """Starts the further processes of this command, unless they run already."""
    for number in range(1, _workers.missing + 1):
        variables = {"RANK": str(number), "LOCAL_RANK": str(number), _PARENT: str(os.getpid())}
        command = [sys.executable, *sys.argv]
        _workers.started.append(subprocess.Popen(command, env={**os.environ, **variables}, stdin=subprocess.DEVNULL))
    _workers.missing = 0


def _take_device(device: str) -> None:
    if ":" in device:
        raise DeviceError(
            f"device {device!r} is one device for {world_size()} processes: expected its kind, such as 'cuda'"
        )
    if device == "cpu":
        return
    import torch

    from foveate.models.loading.automatic import device_for

    if device_for(device) == "cpu":
        return
    count = torch.accelerator.device_count()
    if not count:
        raise DeviceError(f"device {device!r}: torch sees none here; expected cpu, or a machine that has one")
    torch.accelerator.set_device_index(_number("LOCAL_RANK", rank()) % count)


def _share_threads() -> None:
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // world_size()))


def _end_with(parent: int) -> None:
    """Ends this process when the one that started it has ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
