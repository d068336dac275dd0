"""One evaluation on several devices: a process for each, of which the first leads and the others help.

Lightning starts the processes by running the command once more for every device, or finds those that torchrun or SLURM
has started. Only the leader runs what the command says, such as a study; whenever it evaluates, all processes answer
their share of the batches.
"""

import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from threading import Thread
from typing import Any, TypeVar

from foveate.core.errors import DeviceError, FoveateError, interrupted
from foveate.core.progress import hush

T = TypeVar("T")
_FOREVER = timedelta(days=365)  # helpers wait while the leader thinks; who dies is noticed without a timeout


class Team:
    """The processes that evaluate together, one per device; what they send each other are small values."""

    def __init__(self, devices: int = 1, nodes: int = 1) -> None:
        self.fabric: Any = None if devices * nodes == 1 else _fabric(devices, nodes)
        self.at_work = False

    @property
    def number(self) -> int:
        return self.fabric.global_rank if self.fabric else 0

    @property
    def size(self) -> int:
        return self.fabric.world_size if self.fabric else 1

    def meet(self) -> None:
        """Waits until every process has come here."""
        if self.fabric:
            self.fabric.barrier()

    def asked_by_all(self, enough: Callable[[], bool], turns: int) -> Callable[[], bool]:
        """Asked by every process after each of its turns, when all have come so far: the leader's answer.

        Args:
            enough: The leader's is asked.
            turns: Of the process that has fewest; later ones are not waited for, and hear no.
        """
        left = iter(range(turns))

        def asked() -> bool:
            if next(left, None) is None:
                return False
            self.meet()
            return self._sent(enough() if self.number == 0 else False)

        return asked

    def together(self, task: Callable[[], object], own: Callable[[], bool]) -> bool:
        """Has every helper call `task` while this process calls `own`, and returns what that returned.

        Args:
            task: Can be pickled.
            own: The same with what only the leader does, such as a bar.

        Raises:
            DeviceError: Another process died or failed, now or before.
        """
        if self.size == 1:
            return own()
        if self.at_work:
            raise DeviceError("an evaluation of these processes has failed before: start the command again")
        self.at_work = True
        try:
            self._sent(task)
            result = self._finished(own)
        except RuntimeError as error:
            if _broken(error):
                raise DeviceError(
                    "the process of another device died or failed, see above. What is recorded is kept: run the same "
                    "command again"
                ) from error
            raise
        self.at_work = False
        return result

    def help(self) -> None:
        """Works for the leader until it sends the team home, or is no more."""
        while task := self._sent(None):
            self._finished(task)

    def _sent(self, value: Any) -> Any:  # noqa: ANN401 (small values)
        """Returns the value of the leader in every process; that of the others is ignored."""
        return self.fabric.broadcast(value) if self.fabric else value

    def _finished(self, work: Callable[[], T]) -> T:
        """Does this process's part, and waits until all have written theirs; also after Ctrl-C, which all hear."""
        try:
            done = work()
        except (KeyboardInterrupt, Exception) as error:
            if interrupted(error):
                self.meet()
            raise
        self.meet()
        return done

    def go_home(self) -> None:
        """Ends the helpers; those that are at work end when they notice that the leader has."""
        if not self.at_work:
            self._sent(None)


def _fabric(devices: int, nodes: int) -> Any:  # noqa: ANN401 (Lightning's `Fabric`, which takes seconds to import)
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    return Fabric(
        accelerator="cpu",  # of what is sent; every process has its model where `load` has put it
        devices=devices,
        num_nodes=nodes,
        strategy=DDPStrategy(timeout=_FOREVER),
    )


_team: Team | None = None


def team() -> Team:
    """Of this process; on its own unless it is led."""
    global _team
    _team = _team or Team()
    return _team


def check_counts(devices: int, nodes: int) -> None:
    """Refuses numbers of devices and machines that are none.

    Raises:
        DeviceError: One is below 1.
    """
    if devices < 1 or nodes < 1:
        raise DeviceError(f"devices={devices}, nodes={nodes}: at least one of each is needed")


def lead(main: Callable[[], None], device: str = "cpu", devices: int = 1, nodes: int = 1) -> None:
    """Runs `main` in one process, whose evaluations the processes of all devices share.

    Args:
        main: What to run.
        device: Kind of the devices, such as "cuda"; every process uses the one of its local rank, or the only one it
            sees.
        devices: Processes per node. torchrun or SLURM must have started as many; without them Lightning starts them.
        nodes: Machines that run the same command and share the folder of results.

    Raises:
        DeviceError: The devices are not there, or another number of processes was started.
    """
    global _team
    check_counts(devices, nodes)
    # as `torch.distributed.is_torchelastic_launched` does, without importing torch
    started = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if devices * nodes == 1 and started == 1:
        return main()
    if ":" in device:
        raise DeviceError(f"device {device!r} is one device: give its kind, {device.split(':')[0]!r}, and --devices")
    there = _there(device, devices)
    child = int(os.environ.get("LOCAL_RANK", "0")) > 0
    try:
        if devices * nodes == 1:
            raise ValueError(f"torchrun has started {started} processes.")
        us = Team(devices, nodes)
        us.fabric.launch()
        if us.size != devices * nodes:
            raise ValueError(f"{us.size} processes were started.")
    except (ValueError, RuntimeError) as error:
        raise DeviceError(
            f"devices={devices}, nodes={nodes}: {error} Give --devices, the processes of each node, and --nodes "
            "as they are started (srun --ntasks-per-node, torchrun --nproc-per-node)"
        ) from error
    if child:
        Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    if there:  # from now on the kind alone, such as "cuda", means the device of this process
        import torch

        torch.accelerator.set_device_index(us.fabric.local_rank % there)
    _team = us
    try:
        if us.number:
            hush()
            _help(us)
        else:
            try:
                main()
            finally:
                us.go_home()
    finally:
        _team = None


def _help(team: Team) -> None:
    try:
        team.help()
    except (KeyboardInterrupt, Exception) as error:
        if interrupted(error):
            return  # the leader says so; of a helper that fails Lightning would kill it before it can
        if isinstance(error, FoveateError):
            print(f"error: process {team.number} of {team.size}: {error}", file=sys.stderr)
        elif not _broken(error):
            raise


def _broken(error: BaseException) -> bool:
    """Whether the connection to another process broke."""
    from torch import distributed

    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def _there(device: str, devices: int) -> int:
    """How many devices of this kind there are, or 0 for the processor; a scheduler may show a process only its own."""
    if device == "cpu":
        return 0
    import torch

    there = torch.accelerator.device_count()
    if there == 0 or 1 < there < devices:
        raise DeviceError(f"devices={devices}: torch sees {there} of {device!r} here, choose other --devices")
    return there


def _end_with(parent: int) -> None:
    """Ends this process when the one that started it is gone, so that no orphan goes on."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
