"""Loads the CLIP that a vision tower was taken from."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, CLIPModel

from foveate.core.errors import UnsupportedModel, shown
from foveate.models.backbone.text_encoder import COMPANION_HINT, Companion
from foveate.models.loading.checkpoint import SAFE, config_of, on_device, reading, weights_of
from foveate.models.loading.names import REFERENCE, folder_of


def load_companion(name: str | Path = REFERENCE, device: str | torch.device = "cpu") -> Companion:
    """Loads a companion in float32.

    Args:
        name: The name of a shipped model (for its CLIP), a checkpoint folder, or a hub id of a CLIP.
        device: The device that it runs on.

    Raises:
        UnsupportedModel: The checkpoint does not exist, or is not a complete CLIP.
    """
    source = folder_of(name, "clip")
    what = f"companion {shown(str(name))}"
    config = config_of(what, source, hint=COMPANION_HINT)
    if config.model_type != "clip":
        raise UnsupportedModel(
            f"{what} is of type {config.model_type!r}, expected a CLIP with image and text encoder; {COMPANION_HINT}"
        )
    clip: Any = weights_of(what, CLIPModel, source, dtype=torch.float32)
    with reading(f"{what} is incomplete"):
        tokenizer = AutoTokenizer.from_pretrained(source, **SAFE)
    known, embedded = len(tokenizer), clip.text_model.config.vocab_size
    if not embedded / 2 < known <= embedded:  # without files, transformers returns a tokenizer with hardly any tokens
        raise UnsupportedModel(
            f"{what} lacks its tokenizer: the loaded one has {known} tokens, its text encoder {embedded}; take both "
            "from the same checkpoint"
        )
    return Companion(on_device(clip, device).eval(), tokenizer)
