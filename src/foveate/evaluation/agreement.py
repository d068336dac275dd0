"""A check that evaluations answer as the stock model's `generate` does."""

import json
from pathlib import Path
from typing import Any
from warnings import warn

import torch
from PIL import Image
from torch import Tensor

from foveate.compressors import Identity
from foveate.compressors.base import compressed_by
from foveate.core.errors import UnsupportedModel
from foveate.core.storage import atomic_write
from foveate.evaluation.config import EvalConfig, checkpoint_identity, code_hash, run_id
from foveate.models.loading.load import LoadedModel
from foveate.models.runtime.decoder_passes import DecoderPasses
from foveate.models.runtime.generation import embedded
from foveate.models.runtime.generation_config import greedily, unused_warning

_TOLERANCE = {"float32": 2e-3}  # of the largest logit
_HALF = 0.1


def check_evaluated(config: EvalConfig, loaded: LoadedModel) -> None:
    """Warns of generation settings that evaluations ignore, and checks a checkpoint against stock `generate`.

    Raises:
        UnsupportedModel: See `check_agreement`.
    """
    if left_out := unused_warning(loaded.model):
        warn(left_out, stacklevel=2)
    once = run_id({"checkpoint": checkpoint_identity(loaded), "dtype": config.dtype, "code": code_hash()})
    check_agreement(loaded, config.out / "encodings" / f"{once}.agrees.json")


@torch.inference_mode()
def check_agreement(loaded: LoadedModel, known: Path) -> None:
    """Compares the logits of one short prompt about noise, once per checkpoint.

    Args:
        loaded: The model.
        known: File that is written once they agree.

    Raises:
        UnsupportedModel: The logits of the first two tokens differ by more than rounding.
    """
    if known.exists():
        return
    tokens, stock = stock_logits(loaded)
    difference, scale = float((engine_logits(loaded, tokens) - stock).abs().max()), float(stock.abs().max())
    allowed = _TOLERANCE.get(str(loaded.model.dtype).removeprefix("torch."), _HALF)
    if not difference <= allowed * scale:  # false for NaN too
        raise UnsupportedModel(
            f"evaluations of {loaded.name} would not answer as its own `generate` does: logits of up to {scale:.3g} "
            f"differ by {difference:.3g}, and {allowed:g} of them is allowed. Its language model "
            f"({type(loaded.adapter.decoder.model).__name__}) is called in a way of its own by "
            f"{type(loaded.model).__name__}: use `compressor.attached(model)`, which runs that"
        )
    with atomic_write(known) as written:
        written.write_text(json.dumps({"difference": difference, "scale": scale}))


def stock_logits(loaded: LoadedModel) -> tuple[Tensor, Tensor]:
    """Returns the first two tokens that `generate` returns, and their logits, shape (token, vocabulary)."""
    model: Any = loaded.model
    inputs = loaded.inputs([loaded.chat_prompt([None, "?"])], [[_noise()]])
    options = {"max_new_tokens": 2, "min_new_tokens": 2, "output_logits": True}
    with greedily(model):
        generated = model.generate(
            **inputs, **options, return_dict_in_generate=True, pad_token_id=loaded.adapter.pad_token
        )
    return generated.sequences[:, -2:], torch.cat(generated.logits).float()


def engine_logits(loaded: LoadedModel, tokens: Tensor) -> Tensor:
    """Returns the logits of these tokens as evaluations compute them."""
    adapter, images = loaded.adapter, loaded.images([_noise()])
    full = compressed_by(Identity(), images, adapter.extra_needs)
    states, layout = embedded(adapter, [loaded.prompt("?", images.arrangement)], full, repack=False)
    blocks = DecoderPasses(adapter.decoder, layout, (), full)
    first = blocks.prompt(states)
    second = blocks.step(
        adapter.inner.get_input_embeddings()(tokens[:, :1]), torch.ones_like(tokens[:, :1], dtype=torch.bool)
    )
    return adapter.decoder.logits(torch.cat([first[0, -1:], second[0, -1:]])).float()


def _noise() -> Image.Image:
    pixels = torch.randint(0, 256, (224, 336, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Image.fromarray(pixels.numpy())
