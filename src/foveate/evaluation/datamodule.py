"""Batches of questions that keep those about one image together, so that the image is compressed once."""

from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from torch.utils.data import DataLoader

from foveate.data.sample import VQASample


class QuestionsInBatches(lightning.LightningDataModule):
    """Batches of at most `batch_size` questions; those about one image stay together unless there are more than that.

    The batches do not depend on `shares` or `only`: a run that is resumed or shared has those of any other run.

    Args:
        samples: The questions; those about an image follow each other.
        batch_size: Largest number of questions per batch.
        order: Seed by which the images are shuffled; None keeps their order.
        share: Number of this share of the batches.
        shares: Number of shares.
        only: IDs of the questions that remain in the batches; None means all.
    """

    def __init__(
        self,
        samples: Sequence[VQASample],
        batch_size: int,
        order: int | None = None,
        share: int = 0,
        shares: int = 1,
        only: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        images = by_image(samples, order)
        pieces = [image[i : i + batch_size] for image in images for i in range(0, len(image), batch_size)]
        batches = _filled(pieces, batch_size)[share::shares]
        if only is not None:
            remaining = ([sample for sample in batch if sample.id in only] for batch in batches)
            batches = [batch for batch in remaining if batch]
        self.batches: Any = batches

    def predict_dataloader(self) -> DataLoader:
        return DataLoader(self.batches, batch_size=None, collate_fn=list)

    def transfer_batch_to_device(self, batch: list[VQASample], device: torch.device, dataloader_idx: int) -> list:
        """Returns the batch as it is: Lightning would try to move the fields of frozen samples."""
        return batch


def by_image(samples: Sequence[VQASample], order: int | None = None) -> list[list[VQASample]]:
    """Returns the questions about each image.

    Args:
        samples: The questions; those about an image follow each other.
        order: Seed by which the images are shuffled; None keeps their order.
    """
    images = [list(group) for _, group in groupby(samples, key=lambda sample: sample.image_id)]
    if order is not None:
        np.random.default_rng(order).shuffle(images)  # type: ignore[arg-type] (lists of lists are sequences)
    return images


def _filled(pieces: Sequence[list[VQASample]], size: int) -> list[list[VQASample]]:
    batches: list[list[VQASample]] = []
    for piece in pieces:
        if batches and len(batches[-1]) + len(piece) <= size:
            batches[-1] += piece
        else:
            batches.append(list(piece))
    return batches
