"""Questions grouped by picture, so that whatever depends on the picture alone is computed once."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pytorch_lightning as lightning
from torch.utils.data import DataLoader

from foveate.data.sample import VQASample


class QuestionsByPicture(lightning.LightningDataModule):
    """Batches of whole pictures, with as many as hold at most `batch_size` questions together (at least one)."""

    def __init__(self, samples: Sequence[VQASample], batch_size: int) -> None:
        super().__init__()
        self.pictures: Any = [list(group) for _, group in groupby(samples, key=lambda sample: sample.image_id)]
        self.pictures_per_batch = max(1, batch_size // max(map(len, self.pictures)))

    def predict_dataloader(self) -> DataLoader:
        return DataLoader(self.pictures, batch_size=self.pictures_per_batch, collate_fn=_flatten)


def _flatten(pictures: list[list[VQASample]]) -> list[VQASample]:
    return [sample for picture in pictures for sample in picture]
