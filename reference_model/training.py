"""Training loop of all stages on two CPU processes; a stopped run continues from the checkpoint of its last epoch."""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import rank_zero_only
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate
from transformers import CLIPModel, LlavaForConditionalGeneration

from foveate.core.storage import atomic_write
from foveate.data.scenes.scene import Scene, Thing
from foveate.reference.architecture import clip_config, make_processor

HELD_OUT = 10_000_000  # first index of the validation images of the `train` split


class EpochsOfScenes(lightning.LightningDataModule):
    """Scenes of the endless `train` split; every epoch has the next `images` indices, so a resumed run repeats none."""

    def __init__(
        self, dataset: Callable[[range], Dataset], images: int, batch_size: int, collate: Callable = default_collate
    ) -> None:
        super().__init__()
        self.dataset, self.images, self.batch_size, self.collate = dataset, images, batch_size, collate

    def train_dataloader(self) -> DataLoader:
        start = self.trainer.current_epoch * self.images if self.trainer else 0
        return self._loader(range(start, start + self.images))

    def val_dataloader(self) -> DataLoader:
        return self._loader(range(HELD_OUT, HELD_OUT + 256))

    def _loader(self, indices: range) -> DataLoader:
        return DataLoader(self.dataset(indices), batch_size=self.batch_size, collate_fn=self.collate)


def fit(
    module: lightning.LightningModule,
    data: EpochsOfScenes,
    out: Path,
    steps: int,
    processes: int = 2,
) -> None:
    """Trains for `steps` optimizer steps, or continues from the checkpoint in `out`."""
    torch.set_num_threads(1)  # two processes of one thread are faster than one of two threads
    checkpoint = out / "last.ckpt"
    every_epoch = ModelCheckpoint(
        dirpath=out, filename=checkpoint.stem, save_on_train_epoch_end=True, enable_version_counter=False
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        max_steps=steps,
        gradient_clip_val=1.0,
        check_val_every_n_epoch=2,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        callbacks=[every_epoch],
        logger=CSVLogger(out, name="log"),
        log_every_n_steps=50,
        enable_progress_bar=sys.stdout.isatty(),
        enable_model_summary=False,
    )
    trainer.fit(module, data, ckpt_path=checkpoint if checkpoint.exists() else None, weights_only=True)


def computed_once(name: str, tower: nn.Module, out: Path, make: Callable[[], dict]) -> dict:
    """Returns what `make` computes from the training images with this tower, stored in `out`.

    The file holds only tensors, texts and numbers, so reading it cannot run code.
    """
    weights = hashlib.sha256(b"".join(value.numpy().tobytes() for value in tower.state_dict().values())).hexdigest()
    path = out / f"{name}-{weights[:8]}.tensors"
    if not path.exists():
        with atomic_write(path) as unfinished:
            torch.save(make(), unfinished)
    return torch.load(path, mmap=True, weights_only=True)


def facts_of(scene: Scene) -> tuple[tuple[str | int, ...], ...]:
    """Returns the things of a scene as plain values, which `image_of` reads."""
    return tuple(astuple(thing) for thing in scene.things)


def image_of(bank: dict, index: int) -> tuple[int, Scene]:
    """Returns the number and the scene of the image of item `index`; images repeat."""
    image, nothing = index % len(bank["things"]), np.empty(0)
    things = tuple(Thing(*facts) for facts in bank["things"][image])
    return image, Scene(things, nothing, nothing)


def trained_clip(folder: Path) -> CLIPModel:
    """Returns the CLIP of a finished vision stage."""
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    clip = CLIPModel(clip_config())
    clip.load_state_dict({name[5:]: value for name, value in checkpoint.items() if name.startswith("clip.")})
    return clip


@rank_zero_only
def export(llava: LlavaForConditionalGeneration, folder: Path) -> None:
    """Writes a checkpoint folder with its processor."""
    llava.eval().save_pretrained(folder)
    make_processor().save_pretrained(folder)
