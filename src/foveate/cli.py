"""What all experiments are told on the command line, and how they run."""

import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Annotated

import tyro

from foveate.compression import Identity
from foveate.core.errors import DeviceError, FoveateError
from foveate.evaluation import EvalConfig
from foveate.evaluation.config import LoggerName
from foveate.evaluation.devices import lead
from foveate.evaluation.loggers import check_loggers

_CHATTER = {
    "lightning_fabric": logging.WARNING,
    "lightning_fabric.strategies.launchers": logging.INFO,  # says who died
    "pytorch_lightning": logging.WARNING,
    "pytorch_lightning.utilities.rank_zero": logging.WARNING,
    "pytorch_lightning.loggers.mlflow": logging.ERROR,  # warns of what it creates
    "mlflow.store": logging.WARNING,
}
_NOISE = (
    ".*does not have many workers",  # prediction does not wait for data here
    "Couldn't infer the batch indices",  # records carry the ids of their samples
    ".*LeafSpec",  # between Lightning and torch
    ".*is experimental",
    ".*is an experimental feature",
)


@dataclass(frozen=True)
class Options:
    """What every study is told.

    Attributes:
        study: Name of the study and of its folder.
        model: "reference" (shipped), a checkpoint folder, or a hub id of a LLaVA.
        data: Data set.
        split: Split of the data set.
        limit: Number of questions; None means all.
        seed: Of the generated data.
        batch_size: Questions per batch; lower it for large models.
        device: Where the model runs, such as cpu or cuda.
        dtype: Of weights and activations: float32, bfloat16 or float16.
        devices: Devices on each machine that share every evaluation, each with a model of its own; torchrun and SLURM
            must have started as many processes, without them they are started.
        nodes: Machines that share every evaluation; they run the same command and share `out`.
        workers: Processes on this machine that share the work, each with evaluations of its own.
        storage: Database URL for several machines, such as postgresql+psycopg://user:password@host/database; they
            run the same command and must share `out`. Default is a SQLite file in the study's folder.
        logger: Where the course of every evaluation is told: csv, tensorboard, wandb, mlflow, or nothing at all. Files
            lie in `<out>/logs`.
        out: Folder of all results.
    """

    study: str
    model: str = "reference"
    data: str = "scenes"
    split: str = "test"
    limit: int | None = None
    seed: int = 0
    batch_size: int = 256
    device: str = "cpu"
    dtype: str = "float32"
    devices: int = 1
    nodes: int = 1
    workers: int = 1
    storage: str | None = None
    logger: tuple[LoggerName, ...] = ("csv",)
    out: Path = Path("runs")

    @property
    def config(self) -> EvalConfig:
        """The evaluation, its compressor still to be chosen."""
        return EvalConfig(
            Identity(),
            self.model,
            self.data,
            self.split,
            self.limit,
            self.seed,
            dtype=self.dtype,
            batch_size=self.batch_size,
            device=self.device,
            out=self.out,
            loggers=self.logger,
            project=self.study,
        )


Flat = Annotated[Options, tyro.conf.arg(name="")]
"""Options without a prefix."""


def run(main: Callable[..., None]) -> None:
    """Parses the command line into the arguments of `main`; what a user can mend is said in one line, exit status 2."""
    for name, level in _CHATTER.items():
        logging.getLogger(name).setLevel(level)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    try:
        tyro.cli(_led(main))
    except FoveateError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _led(main: Callable[..., None]) -> Callable[..., None]:
    """`main` in the first of the processes that its options ask for."""

    @wraps(main)
    def led(**arguments: object) -> None:
        work = partial(main, **arguments)
        options = next((value for value in arguments.values() if isinstance(value, Options)), None)
        if options is None:
            return work()
        check_loggers(options.logger)
        if options.workers > 1 and options.devices * options.nodes > 1:
            raise DeviceError(
                f"--workers {options.workers} with --devices {options.devices} --nodes {options.nodes}: either workers "
                "share the evaluations of a study, or devices share every evaluation; leave one of them out"
            )
        lead(work, options.device, options.devices, options.nodes)

    return led
