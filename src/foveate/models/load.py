"""Loads a checkpoint, shipped, local or from the hub, with its processor and adapter."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from jaxtyping import Float
from PIL import __version__ as pillow_version
from PIL.Image import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
)

from foveate.core.errors import UnsupportedModel
from foveate.models.companion import Companion, load_companion
from foveate.models.llava import Llava
from foveate.models.pictures import TextSide

REFERENCE = "reference"
_DTYPES = ("float32", "bfloat16", "float16")
_ADAPTERS = {"llava": Llava}  # by model_type of the configuration


def adapt(model: nn.Module) -> Llava:
    """The adapter of a stock model.

    Raises:
        UnsupportedModel: No adapter knows its class.
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind not in _ADAPTERS or not hasattr(model, "lm_head"):
        raise UnsupportedModel(f"{type(model).__name__} is not supported; supported types: {', '.join(_ADAPTERS)}")
    return _ADAPTERS[kind](cast(Any, model))


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A checkpoint ready to run."""

    name: str
    adapter: Llava
    processor: Any
    companion: Companion | None = None

    @property
    def model(self) -> PreTrainedModel:
        return self.adapter.model

    @cached_property
    def identity(self) -> str:
        """Hash of everything that the checkpoint decides: parameters, configurations, tokenizer, image processor."""
        digest = hashlib.sha256(type(self.processor.image_processor).__name__.encode() + pillow_version.encode())
        with TemporaryDirectory() as folder:
            self.model.config.save_pretrained(folder)
            self.model.generation_config.save_pretrained(folder)
            self.processor.save_pretrained(folder)
            if self.companion:
                self.companion.clip.config.save_pretrained(Path(folder) / "companion")
                self.companion.tokenizer.save_pretrained(Path(folder) / "companion")
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file():
                    digest.update(path.name.encode() + path.read_bytes())
        parts = [self.model, *([self.companion.clip] if self.companion else [])]
        for name, value in (item for part in parts for item in sorted(part.state_dict().items())):
            digest.update(name.encode())
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def pixels(self, images: list[Image]) -> Float[Tensor, "image channel height width"]:
        """Pictures as the tower wants them."""
        rgb = [image.convert("RGB") for image in images]
        pixels = self.processor.image_processor(rgb, return_tensors="pt")["pixel_values"]
        return pixels.to(self.model.device)

    def prompt(self, question: str) -> list[int]:
        """Token ids of the chat prompt for one picture and a question, the image token expanded to all patches."""
        image, patches = self.adapter.image_token, self.adapter.tower.grid.patches
        ids = self._ids(self._written(question))
        return [token for i in ids for token in ([image] * patches if i == image else [i])]

    def reference(self, question: str, answer: str) -> list[int]:
        """Token ids of an answer as they follow the chat prompt for a question, the end token last."""
        written = self._written(question)
        before, whole = self._ids(written), self._ids(written + " " * (not written[-1:].isspace()) + answer)
        tokens = whole[len(before) :] if whole[: len(before)] == before else self._ids(answer, special=False)
        end = self.processor.tokenizer.eos_token_id
        ends = self.adapter.ends
        return [*tokens, *([end] if end in ends else ends[:1])]

    def _written(self, question: str) -> str:
        """The chat prompt."""
        if not self.processor.chat_template:
            return f"USER: {self.processor.image_token}\n{question} ASSISTANT:"
        content = [{"type": "image"}, {"type": "text", "text": question}]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    def _ids(self, text: str, special: bool = True) -> list[int]:
        tokenizer = self.processor.tokenizer
        started = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
        return tokenizer(text, add_special_tokens=special and not started)["input_ids"]

    @cached_property
    def text_side(self) -> TextSide:
        """What the model alone does not know of texts."""
        return TextSide(self.companion, self.text, self.adapter.question(self.prompt("")))

    def text(self, tokens: list[list[int]]) -> list[str]:
        """Answers as strings without special tokens."""
        return [t.strip() for t in self.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def load(
    name: str | Path = REFERENCE,
    device: str = "cpu",
    dtype: str = "float32",
    attention: str = "sdpa",
    companion: str | Path | None = None,
) -> LoadedModel:
    """Loads a checkpoint.

    Args:
        name: "reference" (the shipped model), a checkpoint folder, or a hub id.
        device: Where it runs.
        dtype: "float32", "bfloat16" or "float16".
        attention: Attention implementation, as transformers names it.
        companion: Checkpoint of the CLIP that the vision tower came from, for scorers that compare patches with text;
            the shipped model has its own.

    Raises:
        UnsupportedModel: There is no such checkpoint, it is not a supported model or not whole, or device or dtype
            cannot be had.
    """
    if dtype not in _DTYPES:
        raise UnsupportedModel(f"dtype {dtype!r} is unknown; known: {', '.join(_DTYPES)}")
    place = str(files("foveate.reference") / "llava") if str(name) == REFERENCE else str(name)
    try:
        config: Any = AutoConfig.from_pretrained(place)
    except (OSError, ValueError) as error:
        raise UnsupportedModel(
            f"model {str(name)!r}: neither {REFERENCE!r}, nor a checkpoint folder, nor a reachable hub id "
            f"({str(error).splitlines()[0]})"
        ) from error
    if config.model_type not in _ADAPTERS:
        known = ", ".join(_ADAPTERS)
        raise UnsupportedModel(f"model {str(name)!r} is of type {config.model_type!r}; supported: {known}")
    try:
        processor = AutoProcessor.from_pretrained(place)
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            place, dtype=getattr(torch, dtype), attn_implementation=attention, output_loading_info=True
        )
    except (OSError, SafetensorError) as error:
        raise UnsupportedModel(f"model {str(name)!r} is incomplete: {str(error).splitlines()[0]}") from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise UnsupportedModel(f"model {str(name)!r} lacks {len(missing)} of its weights, such as {missing[0]}")
    try:
        adapter = adapt(model.to(device).eval())
    except (RuntimeError, AssertionError) as error:
        raise UnsupportedModel(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    companion = REFERENCE if companion is None and str(name) == REFERENCE else companion
    return LoadedModel(str(name), adapter, processor, load_companion(companion, device) if companion else None)
