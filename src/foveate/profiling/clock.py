"""Time by part and peak memory of a call."""

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
    """A stopwatch with named parts; time counts for the innermost running part, so that parts add up to the total.

    An accelerator works asynchronously, so the clock synchronizes with it wherever a part begins or ends. It reads
    wall-clock time, not the accelerator's events, because methods that choose tokens have much work on the host between
    two kernels.

    Args:
        device: The device that does the work: cpu, cuda, mps or any other that `torch.accelerator` supports.

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
        """Counts the time inside the context for this part, except for parts that begin inside it."""
        self._credit()
        self._running.append(name)
        try:
            yield
        finally:
            self._credit()
            self._running.pop()

    @contextmanager
    def listening(self, *calls: tuple[object, str, str]) -> Iterator[None]:
        """Counts every call of some methods as a part, and restores the objects on leaving.

        Args:
            *calls: The object, the name of its method, and the name of the part.
        """
        with ExitStack() as stack:
            for owner, method, name in calls:
                own = vars(owner).get(method)  # set on modules that accelerate has hooked
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
        synchronize(self.device)
        now = time.perf_counter()
        if self._running:
            name = self._running[-1]
            self.ms[name] = self.ms.get(name, 0.0) + 1e3 * (now - self._since)
        self._since = now


def peak_bytes(call: Callable[[], object], device: torch.device | str) -> int | None:
    """Returns the peak memory of a call above the memory in use before it; None, without a call, if it is unavailable.

    On a CPU it is the resident set of the whole process, available on Linux only; on MPS the growth of the allocator's
    pool, an upper bound; on other accelerators the memory of tensors.

    Args:
        call: The call, which should have run before, because memory for loading and compiling counts.
        device: The device that does the work.
    """
    device = torch.device(device)
    match device.type:
        case "cpu":
            return _peak_resident_bytes(call)
        case "mps":
            synchronize(device)
            torch.mps.empty_cache()
            before = torch.mps.driver_allocated_memory()
            call()
            synchronize(device)
            return torch.mps.driver_allocated_memory() - before
    synchronize(device)
    torch.accelerator.reset_peak_memory_stats(device)
    before = torch.accelerator.memory_allocated(device)
    call()
    synchronize(device)
    return torch.accelerator.max_memory_allocated(device) - before


def device_name(device: torch.device | str) -> str:
    """Returns the name of a device, such as that of the GPU or the processor."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return f"{device.type} of {platform.machine()}"
    about = _CPU.read_text().splitlines() if _CPU.exists() else []
    names = [line.partition(":")[2].strip() for line in about if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def synchronize(device: torch.device) -> None:
    """Waits for all work of a device; that of a CPU is done already."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _peak_resident_bytes(call: Callable[[], object]) -> int | None:
    try:
        _return_freed()
        (_PROCESS / "clear_refs").write_text("5")  # resets the peak to the current resident set: proc(5)
    except OSError:
        return None
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _return_freed() -> None:
    """Returns freed memory to the system, whose reuse would otherwise not count."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim:
        trim(0)


def _status(field: str) -> int:
    for line in (_PROCESS / "status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"{_PROCESS / 'status'} has no {field}")
