"""Questions in batches that keep those about one image together, so that what depends on it is computed once."""

from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from torch.utils.data import DataLoader

from foveate.data.sample import VQASample


class QuestionsInBatches(lightning.LightningDataModule):
    """Batches of at most `batch_size` questions; an image with fewer questions is never torn apart.

    Processes that share the questions take turns, batch by batch, so the batches are the same for any number of them.

    Args:
        samples: The questions; those about an image follow each other.
        batch_size: Questions per batch.
        order: Seed by which the images are shuffled; None leaves them as they stand.
        process: Number of this one.
        processes: How many there are.
        only: Ids of the questions that are asked; None means all. The others leave gaps, so that a run that goes on has
            the order and the batches of one that was never interrupted.
    """

    def __init__(
        self,
        samples: Sequence[VQASample],
        batch_size: int,
        order: int | None = None,
        process: int = 0,
        processes: int = 1,
        only: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        images = [list(group) for _, group in groupby(samples, key=lambda sample: sample.image_id)]
        if order is not None:
            np.random.default_rng(order).shuffle(images)  # type: ignore[arg-type] (lists of lists are sequences)
        pieces = [image[i : i + batch_size] for image in images for i in range(0, len(image), batch_size)]
        batches = _filled(pieces, batch_size)
        if only is not None:
            kept = ([sample for sample in batch if sample.id in only] for batch in batches)
            batches = [batch for batch in kept if batch]
        self.batches: Any = batches[process::processes]
        self.turns_of_all = len(batches) // processes  # in a later turn not every process has a batch

    def predict_dataloader(self) -> DataLoader:
        return DataLoader(self.batches, batch_size=None, collate_fn=list)

    def transfer_batch_to_device(self, batch: list[VQASample], device: torch.device, dataloader_idx: int) -> list:
        """Questions stay on the host; Lightning would try to move the fields of a frozen sample."""
        return batch


def _filled(pieces: Sequence[list[VQASample]], size: int) -> list[list[VQASample]]:
    batches: list[list[VQASample]] = []
    for piece in pieces:
        if batches and len(batches[-1]) + len(piece) <= size:
            batches[-1] += piece
        else:
            batches.append(list(piece))
    return batches
