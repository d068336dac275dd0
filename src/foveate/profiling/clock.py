"""How long the parts of a call take, and how much memory it holds at its peak."""

import ctypes
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path

import torch

_PROCESS, _CPU = Path("/proc/self"), Path("/proc/cpuinfo")


class Clock:
    """A stopwatch of named parts. Time belongs to the innermost part that runs, so that parts add up.

    An accelerator works behind its caller's back; wherever a part begins or ends it is waited for. What is read is the
    clock on the wall and not the accelerator's events, because the work of the host between two kernels, which methods
    that choose tokens have plenty of, is waited for as well.

    Args:
        device: Where the work is done: cpu, cuda, mps or any other that `torch.accelerator` knows.

    Attributes:
        ms: Milliseconds by part.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.ms: dict[str, float] = {}
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """While active, time is that of this part, unless another begins inside it."""
        self._credit()
        self._running.append(name)
        try:
            yield
        finally:
            self._credit()
            self._running.pop()

    @contextmanager
    def listening(self, *calls: tuple[object, str, str]) -> Iterator[None]:
        """While active, every call of some methods is a part: (object, name of its method, name of the part).

        Afterwards the objects are as they were.
        """
        with ExitStack() as stack:
            for owner, method, name in calls:
                own = vars(owner).get(method)  # as a module has that accelerate put a hook around
                setattr(owner, method, self._timed(getattr(owner, method), name))
                stack.callback(setattr, owner, method, own) if own else stack.callback(delattr, owner, method)
            yield

    def _timed(self, function: Callable, name: str) -> Callable:
        @wraps(function)
        def timed(*args: object, **kwargs: object) -> object:
            with self.part(name):
                return function(*args, **kwargs)

        return timed

    def _credit(self) -> None:
        _wait(self.device)
        now = time.perf_counter()
        if self._running:
            name = self._running[-1]
            self.ms[name] = self.ms.get(name, 0.0) + 1e3 * (now - self._since)
        self._since = now


def peak_bytes(call: Callable[[], object], device: torch.device | str) -> int | None:
    """Most memory that a call holds at once, above what was held before it; None, and no call, where nobody can tell.

    On a CPU the resident set of the whole process, in pages, which Linux alone can be asked for; on MPS by how much the
    pool of the allocator grows, which is never less; on other accelerators what tensors occupy.

    Args:
        call: Should have run before: what is loaded or compiled at a first call counts.
        device: Where it works.
    """
    device = torch.device(device)
    match device.type:
        case "cpu":
            return _peak_resident_bytes(call)
        case "mps":
            _wait(device)
            torch.mps.empty_cache()
            before = torch.mps.driver_allocated_memory()
            call()
            _wait(device)
            return torch.mps.driver_allocated_memory() - before
    _wait(device)
    torch.accelerator.reset_peak_memory_stats(device)
    before = torch.accelerator.memory_allocated(device)
    call()
    _wait(device)
    return torch.accelerator.max_memory_allocated(device) - before


def device_name(device: torch.device | str) -> str:
    """What a device calls itself."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return f"{device.type} of {platform.machine()}"
    about = _CPU.read_text().splitlines() if _CPU.exists() else []
    names = [line.partition(":")[2].strip() for line in about if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _peak_resident_bytes(call: Callable[[], object]) -> int | None:
    try:
        _return_freed()
        (_PROCESS / "clear_refs").write_text("5")  # the peak so far is what is resident now: proc(5)
    except OSError:
        return None
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _return_freed() -> None:
    """What was freed but kept for later would be used again without showing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim:
        trim(0)


def _status(field: str) -> int:
    for line in (_PROCESS / "status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"{_PROCESS / 'status'} has no {field}")
