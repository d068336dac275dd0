"""The training loop of both stages; a stopped run continues from the checkpoint of its last epoch."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AttentionInterface, CLIPModel, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from foveate.core.storage import atomic_write
from foveate.reference.architecture import clip_config

_FAST_ATTENTION = "sdpa_float32"


class Epochs(lightning.LightningDataModule):
    """Endless training data: each epoch has its own loader, so a resumed run repeats no item.

    Args:
        training: Returns the loader of an epoch.
        validation: The loader of held-out data.
    """

    def __init__(self, training: Callable[[int], DataLoader], validation: DataLoader) -> None:
        super().__init__()
        self.training, self.validation = training, validation

    def train_dataloader(self) -> DataLoader:
        return self.training(self.trainer.current_epoch if self.trainer else 0)

    def val_dataloader(self) -> DataLoader:
        return self.validation


def fit(module: lightning.LightningModule, data: Epochs, out: Path, epochs: int, clip_gradients: bool = True) -> None:
    """Trains for at most `epochs` epochs, or continues from the checkpoint in `out`."""
    torch.set_num_threads(1)  # two trainings of one thread are faster than one of two threads
    checkpoint = out / "last.ckpt"
    every_epoch = ModelCheckpoint(
        dirpath=out, filename=checkpoint.stem, save_on_train_epoch_end=True, enable_version_counter=False
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        gradient_clip_val=1.0 if clip_gradients else None,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        callbacks=[every_epoch],
        logger=CSVLogger(out, name="log"),
        log_every_n_steps=50,
        enable_progress_bar=sys.stdout.isatty(),
        enable_model_summary=False,
    )
    trainer.fit(module, data, ckpt_path=checkpoint if checkpoint.exists() else None, weights_only=True)


def use_fast_attention(model: PreTrainedModel) -> None:
    """Makes a model compute attention in float32 under autocast, because its bfloat16 backward pass is slow on CPUs."""
    AttentionInterface.register(_FAST_ATTENTION, _float32_attention)
    model.set_attn_implementation(_FAST_ATTENTION)


def _float32_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,  # noqa: ANN401 (as in transformers)
) -> tuple[Tensor, None]:
    with torch.autocast(query.device.type, enabled=False):
        states, weights = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), attention_mask, **options
        )
    return states.to(query.dtype), weights


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


def trained_clip(folder: Path) -> CLIPModel:
    """Returns the CLIP of a finished vision stage."""
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    clip = CLIPModel(clip_config())
    clip.load_state_dict({name[5:]: value for name, value in checkpoint.items() if name.startswith("clip.")})
    return clip
