"""A checkpoint ready to run: what its own processor would give, of images and of texts."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image as PILImage
from PIL import __version__ as pillow_version
from PIL.Image import Image
from torch import Tensor
from transformers import PreTrainedModel

from foveate.core.arrangement import Arrangement
from foveate.core.errors import DataError, UnsupportedModel, said, shown
from foveate.core.progress import bar
from foveate.data.rgb import as_rgb
from foveate.functional.sequence import left_padded
from foveate.models.backbone.adapter import Adapter, ImageInputs
from foveate.models.backbone.text_encoder import Companion
from foveate.models.loading.checkpoint import device_of, weights_in
from foveate.models.loading.prompts import Prompts
from foveate.models.runtime.images import LiveImages, Texts, TextSide


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A checkpoint ready to run."""

    name: str
    adapter: Adapter
    processor: Any
    companion: Companion | None = None

    def __post_init__(self) -> None:
        self.adapter.image_processor = self.processor.image_processor

    @property
    def model(self) -> PreTrainedModel:
        return self.adapter.model

    def check(self) -> None:
        """Has everything that is not weights done once, for a checkpoint may say anything.

        Raises:
            UnsupportedModel: Model, tokenizer, template and image processor do not go together.
        """
        tower, known = self.adapter.tower, self.adapter.text_config.vocab_size
        if min(tower.depth, self.adapter.decoder.depth) < 1 or not 0 <= tower.feature_layer < tower.depth:
            raise UnsupportedModel(
                f"its tower has {tower.depth} layers, of which {tower.feature_layer} writes the features, and its "
                f"language model {self.adapter.decoder.depth} blocks"
            )
        if self.adapter.separator is not None and self.adapter.separator.is_meta:
            raise UnsupportedModel(
                "model.image_newline is offloaded, which the model itself never reads back: give it a device in "
                "device_map, such as {'model.image_newline': 'cpu'}"
            )
        ids = list(self._prompts.spelled("?"))
        if self.adapter.image_token not in ids or not 0 <= min(ids) <= max(ids) < known:
            raise UnsupportedModel(
                f"a prompt for one image has ids from {min(ids)} to {max(ids)}; expected the image token "
                f"{self.adapter.image_token} among them, and all below {known}"
            )
        if self.adapter.modality == "image":
            self.image_inputs([PILImage.new("RGB", (336, 224))])

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
                    digest.update(path.name.encode() + _lasting(path))
        parts = [self.model, *([self.companion.clip] if self.companion else [])]
        with bar(sum(len(part.state_dict()) for part in parts), "tensor", "reading weights") as progress:
            for name, value in (item for part in parts for item in weights_in(part)):
                digest.update(name.encode())
                digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
                progress.update()
        return digest.hexdigest()[:16]

    @property
    def device(self) -> torch.device:
        """Where the model takes its inputs."""
        return device_of(self.model)

    def image_inputs(
        self, images: Sequence[Image], per_prompt: Sequence[int] | None = None
    ) -> tuple[ImageInputs, list[Arrangement]]:
        """Returns images as the model's own processor prepares them, and how each is arranged.

        Args:
            images: In reading order, of any mode; see `data.rgb.as_rgb`.
            per_prompt: How many of them each prompt has, because LLaVA-OneVision cuts only the image of a prompt with
                one into tiles; None means one each.

        Raises:
            DataError: The model's image processor refuses one of them.
        """
        rgb = [as_rgb(image) for image in images]
        left = iter(rgb)
        given = rgb if per_prompt is None else [list(islice(left, count)) for count in per_prompt if count]
        try:
            seen = self.processor.image_processor(given, return_tensors="pt", **self.adapter.image_options)
        except (ValueError, ZeroDivisionError, RuntimeError) as error:
            sizes = " and ".join(sorted({f"{image.width} x {image.height}" for image in rgb}))
            raise DataError(f"the model's image processor takes no image of {shown(sizes)}: {said(error)}") from error
        names = [name for name in self.adapter.image_inputs if name in seen]
        if self.adapter.image_inputs[0] not in names:
            raise UnsupportedModel(f"{type(self.model).__name__} is not given images, but {self.adapter.modality}s")
        inputs = {name: seen[name].to(self.device) for name in names}
        tiles = seen["num_patches"] if "num_patches" in seen else []
        runs = [int(count) * self.adapter.tower.grid.patches for count in tiles]
        return inputs, self.adapter.arrangements(inputs, runs)

    def images(self, images: Sequence[Image], texts: Callable[[], Texts] | None = None) -> LiveImages:
        """Images of one arrangement, to be compressed.

        Raises:
            ValueError: They are arranged differently.
        """
        inputs, arrangements = self.image_inputs(images)
        if len(set(arrangements)) != 1:
            raise ValueError(f"these {len(images)} images have different shapes: give those of one shape together")
        return LiveImages(self.adapter, inputs, arrangements[0], texts, self.companion)

    def inputs(
        self, texts: Sequence[str], images: Sequence[Sequence[Image]], data: Sequence[Sequence[str]] | None = None
    ) -> dict[str, Tensor]:
        """Returns what the model's own processor does, key by key, for prompts padded on the left.

        That is all that the stock model's `forward` and `generate` need, also where that processor cannot be built
        because it wants torchvision.

        Args:
            texts: Chat prompts, as `written`, with one image token for each image.
            images: Of each prompt, in reading order; none for a prompt about text.
            data: Of each prompt the parts that come from data, in which nothing is a control token; None trusts all.

        Raises:
            DataError: A prompt has not as many image tokens as images, or the token of a video.
        """
        if len(texts) != len(images):
            raise DataError(f"{len(texts)} prompts and images of {len(images)}: expected a list of images for each")
        flat = [image for own in images for image in own]
        seen, arrangements = self.image_inputs(flat, [len(own) for own in images]) if flat else ({}, [])
        left = iter(arrangements)
        given = [[next(left) for _ in own] for own in images]
        parts = [()] * len(texts) if data is None else data
        prompts = [self._prompts.whole(*prompt) for prompt in zip(texts, given, parts, strict=True)]
        return self.batch(prompts, seen)

    def batch(self, prompts: Sequence[Sequence[int]], images: ImageInputs | None = None) -> dict[str, Tensor]:
        """Returns the inputs of the stock model for prompts padded on the left.

        Args:
            prompts: Token ids, image tokens expanded.
            images: What `images` returns of their images; None where they have none.
        """
        pad = self.processor.tokenizer.pad_token_id
        padded, real = left_padded(prompts, self.adapter.pad_token if pad is None else pad, self.device)
        kinds = {"mm_token_type_ids": (padded == self.adapter.image_token).long()}
        return {
            "input_ids": padded,
            "attention_mask": real.long(),
            **(images or {}),
            **{name: value for name, value in kinds.items() if name in self.adapter.image_inputs},
        }

    def prompt(self, question: str, arrangement: Arrangement | None = None) -> list[int]:
        """Token ids of the chat prompt for one image and a question, the image token expanded to a whole run.

        Args:
            question: The question.
            arrangement: Of the image; None means one of the tower's own size.
        """
        image = arrangement or Arrangement((self.adapter.tower.grid,))
        return self._prompts.expanded(self._prompts.spelled(question), [image])

    def text_prompt(self, question: str) -> list[int]:
        """Returns the token ids of the chat prompt for a question without an image."""
        return list(self._prompts.spelled(question, image=False))

    def reference(self, question: str, answer: str) -> list[int]:
        """Token ids of an answer as they follow the chat prompt for a question, the end token last."""
        return list(self._prompts.spelled(question, answer))

    def continued(self, written: str, answer: str) -> list[int]:
        """Token ids of an answer as they follow a chat prompt, the end token last."""
        return self._prompts.continued(written, answer)

    def written(self, content: Sequence[str | None], system: str = "") -> str:
        """Returns the chat prompt of one turn, by the checkpoint's chat template.

        Args:
            content: Texts, and None where an image stands.
            system: What comes before the turn; empty means what the checkpoint's template has.
        """
        return self._prompts.written(content, system)

    @cached_property
    def _prompts(self) -> Prompts:
        return Prompts(self.adapter, self.processor)

    @cached_property
    def text_side(self) -> TextSide:
        """What the model alone does not know of texts."""
        one, other = (self.adapter.question(self.prompt(question)) for question in ("", "?"))
        same = [a == b for a, b in zip(reversed(one), reversed(other), strict=False)]
        length = same.index(False) if False in same else len(same)
        return TextSide(self.companion, self.text, one[len(one) - length :])

    def text(self, tokens: list[list[int]]) -> list[str]:
        """Answers as strings without special tokens."""
        return [t.strip() for t in self.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def _lasting(path: Path) -> bytes:
    """What a saved file says of the checkpoint itself, and not of how it was fetched."""
    if path.name != "tokenizer_config.json":
        return path.read_bytes()
    return json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "local_files_only"}).encode()
