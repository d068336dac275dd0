"""The callback that writes the records of every batch, and the signal that ends an evaluation early."""

import signal
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import BasePredictionWriter

from foveate.data.sample import VQASample
from foveate.evaluation.records import RunFolder


class Enough(Exception):
    """The signal that leaves Lightning's prediction loop early."""


class RecordWriter(BasePredictionWriter):
    """A callback that writes every batch to disk as soon as it is predicted.

    Args:
        folder: The run's folder.
        enough: Called after every batch; True raises `Enough`. None never does.
    """

    def __init__(self, folder: RunFolder, enough: Callable[[], bool] | None = None) -> None:
        super().__init__(write_interval="batch")
        self.folder, self.enough = folder, enough

    def write_on_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        prediction: Any,  # noqa: ANN401 (what the folder takes)
        batch_indices: Sequence[int] | None,
        batch: list[VQASample],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        self.folder.append(prediction)
        if trainer.received_sigterm:  # Lightning's prediction loop would continue
            raise SystemExit(128 + signal.SIGTERM)
        if self.enough and self.enough():
            raise Enough
