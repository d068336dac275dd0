"""Loads a checkpoint, shipped, local or from the hub, with its processor and adapter."""

import hashlib
import json
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from PIL import Image as PILImage
from PIL import __version__ as pillow_version
from PIL.Image import Image
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, PreTrainedModel

from foveate.core.errors import DataError, UnsupportedModel, said, shown
from foveate.core.progress import bar
from foveate.core.types import Arrangement
from foveate.data.rgb import as_rgb
from foveate.functional.sequence import left_padded
from foveate.models.adapter import Adapter, Images
from foveate.models.checkpoint import SAFE, config_of, placed, reading, weights_of
from foveate.models.companion import Companion, load_companion
from foveate.models.internals import internal
from foveate.models.llava import Llava
from foveate.models.names import DTYPES, REFERENCE
from foveate.models.pictures import SeenPictures, Texts, TextSide
from foveate.models.processor import load_processor
from foveate.models.qwen_vl import QwenVL
from foveate.models.tiled import InternVL, LlavaNext, LlavaNextVideo, LlavaOnevision

_ADAPTERS: dict[str, Callable[[Any], Adapter]] = {  # by model_type of the configuration
    "llava": Llava,
    "llava_next": LlavaNext,
    "llava_next_video": LlavaNextVideo,
    "llava_onevision": LlavaOnevision,
    "qwen2_5_vl": QwenVL,
    "qwen3_vl": QwenVL,
    "internvl": InternVL,
}


def adapt(model: nn.Module) -> Adapter:
    """The adapter of a stock model.

    Raises:
        UnsupportedModel: No adapter knows its class.
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind not in _ADAPTERS or not hasattr(model, "lm_head"):
        raise UnsupportedModel(f"{type(model).__name__} is not supported; supported types: {', '.join(_ADAPTERS)}")
    return _ADAPTERS[kind](cast(Any, model))


_MARK = "foveate-question"  # stands in a chat prompt where a question will
_TEXTS = 100_000  # whose tokens are remembered


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A checkpoint ready to run."""

    name: str
    adapter: Adapter
    processor: Any
    companion: Companion | None = None

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
        ids = list(self._spelled("?"))
        if self.adapter.image_token not in ids or not 0 <= min(ids) <= max(ids) < known:
            raise UnsupportedModel(
                f"a prompt for one picture has ids from {min(ids)} to {max(ids)}; expected the image token "
                f"{self.adapter.image_token} among them, and all below {known}"
            )
        if self.adapter.modality == "image":
            self.images([PILImage.new("RGB", (336, 224))])

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
        weights = [item for part in parts for item in sorted(part.state_dict().items())]
        for name, value in bar(weights, "tensor", "reading weights"):
            digest.update(name.encode())
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def images(self, images: Sequence[Image]) -> tuple[Images, list[Arrangement]]:
        """Pictures as the model wants them, and how each is arranged.

        Raises:
            DataError: The model's image processor refuses one of them.
        """
        rgb = [as_rgb(image) for image in images]
        try:
            seen = self.processor.image_processor(rgb, return_tensors="pt", **self.adapter.image_options)
        except (ValueError, ZeroDivisionError, RuntimeError) as error:
            sizes = " and ".join(sorted({f"{image.width} x {image.height}" for image in rgb}))
            raise DataError(f"the model's image processor takes no picture of {shown(sizes)}: {said(error)}") from error
        names = [name for name in self.adapter.image_inputs if name in seen]
        if self.adapter.image_inputs[0] not in names:
            raise UnsupportedModel(f"{type(self.model).__name__} is not given pictures, but {self.adapter.modality}s")
        inputs = {name: seen[name].to(self.model.device) for name in names}
        tiles = seen["num_patches"] if "num_patches" in seen else []
        runs = [int(count) * self.adapter.tower.grid.patches for count in tiles]
        return inputs, self.adapter.arrangements(inputs, runs)

    def pictures(self, images: Sequence[Image], texts: Callable[[], Texts] | None = None) -> SeenPictures:
        """Pictures of one arrangement, to be compressed.

        Raises:
            ValueError: They are arranged differently.
        """
        inputs, arrangements = self.images(images)
        if len(set(arrangements)) != 1:
            raise ValueError(f"these {len(images)} pictures have different shapes: give those of one shape together")
        return SeenPictures(self.adapter, inputs, arrangements[0], texts, self.companion)

    def inputs(self, texts: Sequence[str], images: Sequence[Sequence[Image]]) -> dict[str, Tensor]:
        """What the stock model takes: left-padded prompts with every image token expanded to a whole run, and pictures.

        Args:
            texts: Chat prompts, as `written`.
            images: Of each prompt, in reading order.

        Raises:
            DataError: A prompt has not as many image tokens as pictures.
        """
        flat = [image for own in images for image in own]
        seen, arrangements = self.images(flat) if flat else ({}, [])
        left, prompts = iter(arrangements), []
        for text, own in zip(texts, images, strict=True):
            ids = self._ids(text)
            if (found := ids.count(self.adapter.image_token)) != len(own):
                raise DataError(f"{text!r} has {found} image tokens for {len(own)} pictures: expected one for each")
            prompts.append(self._expanded(ids, [next(left) for _ in own]))
        padded, real = left_padded(prompts, self.adapter.pad_token, self.model.device)
        return {"input_ids": padded, "attention_mask": real.long(), **seen}

    def prompt(self, question: str, arrangement: Arrangement | None = None) -> list[int]:
        """Token ids of the chat prompt for one picture and a question, the image token expanded to a whole run.

        Args:
            question: The question.
            arrangement: Of the picture; None means one of the tower's own size.
        """
        image = arrangement or Arrangement((self.adapter.tower.grid,))
        return self._expanded(self._spelled(question), [image])

    def reference(self, question: str, answer: str) -> list[int]:
        """Token ids of an answer as they follow the chat prompt for a question, the end token last."""
        return list(self._spelled(question, answer))

    def continued(self, written: str, answer: str) -> list[int]:
        """Token ids of an answer as they follow a chat prompt, the end token last."""
        if self._holds_control(answer):
            tokens = self._plain(answer)
        else:
            before, whole = self._ids(written), self._ids(written + " " * (not written[-1:].isspace()) + answer)
            tokens = whole[len(before) :] if whole[: len(before)] == before else self._ids(answer, special=False)
        end = self.processor.tokenizer.eos_token_id
        ends = self.adapter.ends
        return [*tokens, *([end] if end in ends else ends[:1])]

    def written(self, content: Sequence[str | None], system: str = "") -> str:
        """The chat prompt of one turn.

        Args:
            content: Texts, and None where a picture stands.
            system: What comes before the turn; empty means what the checkpoint's template has.
        """
        if not self.processor.chat_template:
            image = f"{self.processor.image_token}\n"
            turn = "".join(image if part is None else part for part in content)
            return f"{system} USER: {turn} ASSISTANT:".lstrip()
        picture = {"type": self.adapter.modality}
        parts = [picture if part is None else {"type": "text", "text": part} for part in content]
        turns = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
        turns.append({"role": "user", "content": parts})
        return self.processor.apply_chat_template(turns, add_generation_prompt=True)

    @cached_property
    def _spelled(self) -> Callable[..., array]:
        """Tokens of a question, or of an answer to it; remembered, for every method of a comparison asks the same."""

        def spelled(question: str, answer: str | None = None) -> array:
            if self._holds_control(question):
                before, after = self.written([None, _MARK]).split(_MARK)
                tokens = [self._ids(before), self._plain(question), self._ids(after, special=False)]
                asked, prompt = after, [token for part in tokens for token in part]
            else:
                asked = self.written([None, question])
                prompt = self._ids(asked) if answer is None else []
            return array("i", prompt if answer is None else self.continued(asked, answer))

        return lru_cache(_TEXTS)(spelled)

    @cached_property
    def _controls(self) -> frozenset[str]:
        """Texts that the tokenizer reads as single control tokens."""
        tokenizer = self.processor.tokenizer
        added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        image = [self.processor.image_token] if self.processor.image_token else []
        return frozenset({*tokenizer.all_special_tokens, *added, *image} - {""})

    def _holds_control(self, text: str) -> bool:
        return any(control in text for control in self._controls)

    def _plain(self, text: str) -> list[int]:
        """Token ids of a text from data, in which nothing is a control token.

        Raises:
            DataError: The tokenizer knows no other way to write what is one.
        """
        tokenizer = self.processor.tokenizer
        tokens = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        controls = {*tokenizer.all_special_ids, self.adapter.image_token} - {tokenizer.unk_token_id}
        if found := controls.intersection(tokens):
            name = tokenizer.convert_ids_to_tokens(min(found))
            raise DataError(
                f"{shown(text)} holds {name!r}, which the model's tokenizer reads as a control token and cannot write "
                "otherwise: remove it from the data"
            )
        return tokens

    def _expanded(self, ids: Sequence[int], arrangements: Sequence[Arrangement]) -> list[int]:
        """The prompt with a whole run for each of its image tokens, inside what the processor puts around one."""
        left, image = iter(arrangements), self.adapter.image_token
        edges = [[getattr(self.processor.tokenizer, name)] for name in self.adapter.around] or [[], []]

        def run() -> list[int]:
            return [*edges[0], *[image] * next(left).length, *edges[1]]

        if (places := list(ids).count(image)) != len(arrangements):
            raise DataError(
                f"{places} image tokens for {len(arrangements)} pictures in a prompt: expected one for each"
            )
        return [token for i in ids for token in (run() if i == image else [i])]

    def _ids(self, text: str, special: bool = True) -> list[int]:
        tokenizer = self.processor.tokenizer
        started = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
        return tokenizer(text, add_special_tokens=special and not started)["input_ids"]

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


def load(
    name: str | Path = REFERENCE,
    device: str = "cpu",
    dtype: str = "float32",
    attention: str = "sdpa",
    companion: str | Path | None = None,
    revision: str = "main",
    **options: Any,  # noqa: ANN401 (as in transformers)
) -> LoadedModel:
    """Loads a checkpoint: weights from safetensors only, and never code from its folder.

    Args:
        name: "reference" (the shipped model), a checkpoint folder, or a hub id.
        device: Where it runs.
        dtype: "float32", "bfloat16" or "float16", of all its parts: a tower in another precision than its language
            model would answer differently without a word.
        attention: Attention implementation, as transformers names it.
        companion: Checkpoint of the CLIP that the vision tower came from, for scorers that compare patches with text;
            the shipped model has its own.
        revision: Branch, tag or commit of a hub id.
        options: For `from_pretrained` of transformers, such as `device_map="auto"` (then `device` is not used) or
            `quantization_config`, for models larger than one GPU.

    Raises:
        UnsupportedModel: There is no such checkpoint, it is not a supported model or not whole, or device, dtype or
            attention cannot be had.
    """
    if dtype not in DTYPES:
        raise UnsupportedModel(f"dtype {dtype!r} is unknown; known: {', '.join(DTYPES)}")
    if refused := sorted({"trust_remote_code", "use_safetensors", "dtype", "attn_implementation"} & set(options)):
        raise UnsupportedModel(f"{', '.join(refused)} cannot be given: dtype and attention have arguments of their own")
    if attention not in (known := ("eager", *internal("modeling_utils.ALL_ATTENTION_FUNCTIONS").valid_keys())):
        raise UnsupportedModel(f"attention {attention!r} is unknown; known: {', '.join(sorted(known))}")
    place = str(files("foveate.reference") / "llava") if str(name) == REFERENCE else str(name)
    what = f"model {shown(str(name))}"
    config = config_of(what, place, revision=revision)
    if config.model_type not in _ADAPTERS:
        raise UnsupportedModel(f"{what} is of type {config.model_type!r}; supported: {', '.join(_ADAPTERS)}")
    model: Any = weights_of(
        what,
        AutoModelForImageTextToText,
        place,
        dtype=getattr(torch, dtype),
        attn_implementation=attention,
        revision=revision,
        **options,
    )
    if "quantization_config" not in options and getattr(config, "quantization_config", None) is None:
        model.to(getattr(torch, dtype))  # parts that a checkpoint keeps in another precision
    model = (model if "device_map" in options else placed(model, device)).eval()
    companion = REFERENCE if companion is None and str(name) == REFERENCE else companion
    beside = load_companion(companion, device) if companion else None
    with reading(f"{what} is incomplete", "Expected tokenizer, template and image processor of this very model"):
        loaded = LoadedModel(str(name), adapt(model), load_processor(place, **SAFE, revision=revision), beside)
        loaded.check()
    return loaded
