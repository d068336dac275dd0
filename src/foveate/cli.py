"""What all experiments are told on the command line, and how they run."""

import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from foveate.compression import Identity
from foveate.core.errors import FoveateError
from foveate.evaluation import EvalConfig

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
        workers: Processes on this machine that share the work.
        storage: Database URL for several machines, such as postgresql+psycopg://user:password@host/database; they
            run the same command and must share `out`. Default is a SQLite file in the study's folder.
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
    workers: int = 1
    storage: str | None = None
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
        )


Flat = Annotated[Options, tyro.conf.arg(name="")]
"""Options without a prefix."""


def run(main: Callable[..., None]) -> None:
    """Parses the command line into the arguments of `main`; what a user can mend is said in one line, exit status 2."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    try:
        tyro.cli(main)
    except FoveateError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
