"""A loaded checkpoint: prepares the inputs that its own processor would give, for images and texts."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
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
from foveate.core.budget import Keep
from foveate.core.errors import DataError, UnsupportedModel
from foveate.core.progress import bar
from foveate.data.clip import Clip
from foveate.functional.sequence import left_padded
from foveate.models.backbone.adapter import Adapter, ImageInputs
from foveate.models.backbone.text_encoder import Companion
from foveate.models.loading.checkpoint import device_of, weights_in
from foveate.models.loading.image_inputs import ImagePreparation
from foveate.models.loading.prompts import Prompts
from foveate.models.loading.video_inputs import video_inputs
from foveate.models.runtime.images import LiveImages, Texts, TextSide


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A checkpoint ready to run.

    Attributes:
        name: The name by which it was loaded.
        adapter: The adapter of its model.
        processor: Its processor, or `Parts` of it.
        companion: The CLIP that its tower was taken from; None without one.
        image_options: Options of its image processor besides those of the family, such as `do_pan_and_scan`.
        video_settings: Size and crop of frames, as its video processor has them; without any, images' sizes hold.
        resolution: Visual tokens of each image, as a count or a share of those at full size; see `smaller`. None means
            full size.
        original: The same model at full size; None if this is it.
    """

    name: str
    adapter: Adapter
    processor: Any
    companion: Companion | None = None
    image_options: Mapping[str, Any] = field(default_factory=dict)
    video_settings: Mapping[str, Any] = field(default_factory=dict)
    resolution: Keep | None = None
    original: "LoadedModel | None" = None

    def __post_init__(self) -> None:
        for kind in self.adapter.kinds:
            kind.image_processor, kind.tokenizer = self.processor.image_processor, self.processor.tokenizer
            kind.checkpoint, kind.video_settings = lambda: self.identity, self.video_settings

    def smaller(self, keep: Keep) -> "LoadedModel":
        """Returns this model for smaller images: its inputs hold about `keep` visual tokens per image.

        The family's own image processor makes them, so the token account of a prompt is exact. LLaVA-1.5 resizes the
        processed pixels; LLaVA-NeXT and -OneVision give the image fewer tiles, then smaller ones; InternVL lowers
        `max_patches`, Idefics3 and SmolVLM the longest edge, then the size of a tile; Qwen and GLM lower the largest
        number of pixels. Of videos, LLaVA-NeXT-Video resizes the processed frames, Qwen lowers the largest number of
        pixels, and other families have no smaller ones. Gemma 3 takes one size. No image becomes larger. The count
        nearest to `keep` is taken. The stock model runs on the inputs as it is, except where tiles become smaller than
        those that its CLIP or SigLIP tower takes: there a compressor must be attached, such as `full()`, whose tower
        interpolates its positions.

        Args:
            keep: Patches per image: a count, or a share of the patches that the image has at full size.
        """
        return replace(self, resolution=keep, original=self.original or self)

    @property
    def model(self) -> PreTrainedModel:
        return self.adapter.model

    def check(self) -> None:
        """Prepares a prompt and an image once, to find inconsistent configurations.

        Raises:
            UnsupportedModel: Model, tokenizer, chat template and image processor do not belong together.
        """
        tower, known = self.adapter.tower, self.adapter.text_config.vocab_size
        if min(tower.depth, self.adapter.decoder.depth) < 1 or not 0 <= tower.feature_layer < tower.depth:
            raise UnsupportedModel(
                f"its tower has {tower.depth} layers, of which {tower.feature_layer} writes the features, and its "
                f"language model {self.adapter.decoder.depth} blocks; expected at least one of each, and the features "
                "written by a layer of the tower"
            )
        for name, weight in self.adapter.own_reads.items():
            if weight.is_meta:
                raise UnsupportedModel(
                    f"{name} is offloaded, but cannot be loaded back: give it a device in device_map, such as "
                    f"{{{name!r}: 'cpu'}}"
                )
        if not 0 <= self.adapter.image_token < known:
            raise UnsupportedModel(
                f"the language model has {known} tokens; expected the image token {self.adapter.image_token} among them"
            )
        ids = self.prompt("?")
        if self.adapter.image_token not in ids or not 0 <= min(ids) <= max(ids) < known:
            raise UnsupportedModel(
                f"a prompt for one image has ids from {min(ids)} to {max(ids)}; expected the image token "
                f"{self.adapter.image_token} among them, and all below {known}"
            )
        if self.adapter.modality == "image":
            self.image_inputs([PILImage.new("RGB", (336, 224))])

    @cached_property
    def identity(self) -> str:
        """Hash of everything that belongs to the checkpoint: weights, configurations, tokenizer, image processor.

        The size of images is no part of it.
        """
        if self.original:
            return self.original.identity
        digest = hashlib.sha256(type(self.processor.image_processor).__name__.encode() + pillow_version.encode())
        if self.video_settings:
            digest.update(json.dumps(self.video_settings, sort_keys=True).encode())
        if self.image_options:
            digest.update(json.dumps(self.image_options, sort_keys=True).encode())
        with TemporaryDirectory() as folder:
            self.model.config.save_pretrained(folder)
            self.model.generation_config.save_pretrained(folder)
            self.processor.save_pretrained(folder)
            if self.companion:
                self.companion.clip.config.save_pretrained(Path(folder) / "companion")
                self.companion.tokenizer.save_pretrained(Path(folder) / "companion")
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file():
                    digest.update(path.name.encode() + _content(path))
        parts = [self.model, *([self.companion.clip] if self.companion else [])]
        with bar(sum(len(part.state_dict()) for part in parts), "tensor", "reading weights") as progress:
            for name, value in (item for part in parts for item in weights_in(part)):
                digest.update(name.encode())
                digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
                progress.update()
        return digest.hexdigest()[:16]

    @property
    def device(self) -> torch.device:
        """The device for the model's inputs."""
        return device_of(self.model)

    @cached_property
    def family(self) -> str:
        """The `model_type` of the checkpoint's configuration."""
        return self.model.config.model_type

    @cached_property
    def context(self) -> int | None:
        """Largest number of tokens of a prompt and its answer; None if the configuration names none."""
        return getattr(self.adapter.text_config, "max_position_embeddings", None)

    def image_inputs(
        self, images: Sequence[Image], per_prompt: Sequence[int] | None = None
    ) -> tuple[ImageInputs, list[Arrangement]]:
        """Returns the model inputs of images, prepared by the model's own image processor, and their arrangements.

        Args:
            images: The images in reading order, of any mode; see `data.rgb.as_rgb`.
            per_prompt: Number of images of each prompt; None means one each. LLaVA-OneVision splits an image into tiles
                only if it is the only one of its prompt.

        Raises:
            DataError: The model's image processor refuses an image, or smaller images need different tiles.
            UnsupportedNeed: Smaller images are wanted, and the family has no rule for them.
        """
        return self._images.inputs(images, per_prompt)

    def video_inputs(self, clips: Sequence[Clip]) -> tuple[ImageInputs, list[Arrangement]]:
        """Returns the model inputs of videos and their arrangements.

        The model's own image processor prepares the frames, with the sizes of the checkpoint's video processor, which
        itself would need torchvision. Frames that the model merges in time count as one in the arrangements.

        Args:
            clips: Frames of each video. LLaVA-OneVision and LLaVA-NeXT-Video take equally many of each.

        Raises:
            UnsupportedModel: The model takes no videos.
            UnsupportedNeed: Smaller frames are wanted, and the family has no rule for them.
            DataError: The image processor refuses the frames, or one call cannot hold these videos.
        """
        return video_inputs(self.adapter, clips, self.resolution)

    def together(self, images: Sequence[Image]) -> list[list[int]]:
        """Returns groups of images that one call of `image_inputs` can prepare: all of them at full size."""
        return self._images.together(images)

    def media_together(self, media: Sequence[Image | Clip]) -> list[list[int]]:
        """Returns groups of images or videos that one call of `media_inputs` can prepare; each video is one."""
        videos = [[row] for row, one in enumerate(media) if isinstance(one, Clip)]
        rows = [row for row, one in enumerate(media) if not isinstance(one, Clip)]
        images = [one for one in media if not isinstance(one, Clip)]
        return [*([rows[i] for i in group] for group in self.together(images)), *videos]

    def media_inputs(self, media: Sequence[Image | Clip]) -> tuple[ImageInputs, list[Arrangement]]:
        """Returns what `image_inputs` or `video_inputs` returns, for images or for videos."""
        clips = [one for one in media if isinstance(one, Clip)]
        if not clips:
            return self.image_inputs([one for one in media if not isinstance(one, Clip)])
        if len(clips) < len(media):
            raise ValueError("images and videos were given: one call prepares images or videos")
        return self.video_inputs(clips)

    def images(self, images: Sequence[Image | Clip], texts: Callable[[], Texts] | None = None) -> LiveImages:
        """Returns images, or videos, of one arrangement for a compressor.

        Raises:
            ValueError: They have different arrangements.
        """
        inputs, arrangements = self.media_inputs(images)
        if len(set(arrangements)) != 1:
            raise ValueError(f"these {len(images)} images have different shapes: call `images` once per shape")
        return LiveImages(self.adapter.of(arrangements[0]), inputs, arrangements[0], texts, self.companion)

    def inputs(
        self,
        texts: Sequence[str],
        images: Sequence[Sequence[Image]],
        data: Sequence[Sequence[str]] | None = None,
        videos: Sequence[Sequence[Clip]] | None = None,
    ) -> dict[str, Tensor]:
        """Returns the inputs that the model's own processor returns for prompts padded on the left.

        They suffice for the stock model's `forward` and `generate`, also if that processor cannot be built because
        torchvision is not installed.

        Args:
            texts: Chat prompts, see `chat_prompt`, with one image token per image.
            images: Images of each prompt in reading order; an empty list for a prompt about text.
            data: Parts of each prompt that come from data, which may not contain control tokens; None means none.
            videos: Videos of each prompt in reading order; None means none.

        Raises:
            DataError: A prompt has another number of image or video tokens than images or videos.
            UnsupportedModel: The model takes no videos.
        """
        clips = [()] * len(texts) if videos is None else videos
        for what, given in (("images", images), ("videos", clips)):
            if len(texts) != len(given):
                raise DataError(
                    f"{len(texts)} prompts and {what} for {len(given)}: expected a list of {what} per prompt"
                )
        flat, shown = [image for own in images for image in own], [clip for own in clips for clip in own]
        inputs, arrangements = self.image_inputs(flat, [len(own) for own in images]) if flat else ({}, [])
        more, arrangements_of_videos = self.video_inputs(shown) if shown else ({}, [])
        left, others = iter(arrangements), iter(arrangements_of_videos)
        per_prompt = [
            [*(next(left) for _ in own), *(next(others) for _ in also)] for own, also in zip(images, clips, strict=True)
        ]
        parts = [()] * len(texts) if data is None else data
        prompts = [self._prompts.with_images(*prompt) for prompt in zip(texts, per_prompt, parts, strict=True)]
        batch = self.batch(prompts)
        own = self.adapter.joined_inputs((inputs, arrangements), (more, arrangements_of_videos), batch["input_ids"])
        return {**batch, **own}

    def batch(self, prompts: Sequence[Sequence[int]], images: ImageInputs | None = None) -> dict[str, Tensor]:
        """Returns the inputs of the stock model for prompts padded on the left.

        Args:
            prompts: Token ids, image tokens expanded.
            images: Model inputs of their images, see `image_inputs`; None without images.
        """
        pad = self.processor.tokenizer.pad_token_id
        padded, real = left_padded(prompts, self.adapter.pad_token if pad is None else pad, self.device)
        return {
            "input_ids": padded,
            "attention_mask": real.long(),
            **(images or {}),
            **self.adapter.token_types(padded),
        }

    def prompt(self, question: str, arrangement: Arrangement | None = None) -> list[int]:
        """Returns the token ids of the chat prompt for one image and a question, with all placeholders.

        Args:
            question: The question.
            arrangement: The image's arrangement; None means one view of the tower's own size.
        """
        image = arrangement or Arrangement((self.adapter.tower.grid,))
        return self._prompts_with(self.adapter.of(image)).about(question, [image])

    def text_prompt(self, question: str) -> list[int]:
        """Returns the token ids of the chat prompt for a question without an image."""
        return list(self._prompts.tokens(question, images=0))

    def prompt_about(self, question: str, arrangements: Sequence[Arrangement]) -> list[int]:
        """Returns the token ids of the chat prompt for any number of images and a question, with all placeholders.

        Args:
            question: The question; in one about several images, each `data.sample.PLACEHOLDER` is an image.
            arrangements: The arrangements of the images, or of the videos, in their order.

        Raises:
            DataError: The number of placeholders differs from the number of images, or the chat template changes the
                order of texts and images.
        """
        if len(arrangements) < 2:
            return self.prompt(question, arrangements[0]) if arrangements else self.text_prompt(question)
        if len(kinds := {self.adapter.of(one) for one in arrangements}) > 1:
            raise DataError("a question about images and videos: expected images or videos; see `inputs` for both")
        return self._prompts_with(*kinds).about(question, arrangements)

    def reference(self, question: str, answer: str, images: int = 1) -> list[int]:
        """Returns the token ids of an answer after the chat prompt for a question, the end token last.

        Args:
            question: The question.
            answer: The answer.
            images: Number of images of the prompt.
        """
        return list(self._prompts.tokens(question, answer, images))

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Returns the words of a text that the tokenizer does not know, see `Prompts.unknown_words`."""
        return self._prompts.unknown_words(text)

    def answer_tokens(self, prompt: str, answer: str) -> list[int]:
        """Returns the token ids of an answer after a chat prompt, the end token last."""
        return self._prompts.answer_tokens(prompt, answer)

    def chat_prompt(self, content: Sequence[str | None], system: str = "") -> str:
        """Returns the chat prompt of one turn, by the checkpoint's chat template.

        Args:
            content: The parts of the turn: a text, or None for an image.
            system: The system prompt; empty means that of the checkpoint's template.
        """
        return self._prompts.chat_prompt(content, system)

    def conversation(self, turns: Sequence[Mapping[str, Any]], **options: Any) -> str:  # noqa: ANN401
        """Returns the chat prompt of several turns by role and content, see `Prompts.conversation`."""
        return self._prompts.conversation(turns, **options)

    @cached_property
    def _images(self) -> ImagePreparation:
        return ImagePreparation(self.adapter, self.image_options, self.resolution)

    @cached_property
    def _prompts(self) -> Prompts:
        return Prompts(self.adapter, self.processor)

    def _prompts_with(self, kind: Adapter) -> Prompts:
        """Returns the prompts about images or about videos."""
        if kind is self.adapter:
            return self._prompts
        if self._other_prompts is None or self._other_prompts.adapter is not kind:
            raise UnsupportedModel(f"{type(self.model).__name__} takes no {kind.modality}s")
        return self._other_prompts

    @cached_property
    def _other_prompts(self) -> Prompts | None:
        """The prompts about the model's other kind of inputs, videos or images; None if it has none."""
        return Prompts(self.adapter.other, self.processor) if self.adapter.other else None

    @cached_property
    def text_side(self) -> TextSide:
        """The companion, the tokenizer's decoding, and the end of the chat template, for text-aware scorers."""
        one, other = (self.adapter.question(self.prompt(question)) for question in ("", "?"))
        same = [a == b for a, b in zip(reversed(one), reversed(other), strict=False)]
        length = same.index(False) if False in same else len(same)
        return TextSide(self.companion, self.text, one[len(one) - length :])

    def text(self, tokens: list[list[int]]) -> list[str]:
        """Decodes answers to strings without special tokens."""
        different = list(dict.fromkeys(map(tuple, tokens)))  # many answers are equal
        texts = self.processor.tokenizer.batch_decode(list(map(list, different)), skip_special_tokens=True)
        decoded = {answer: text.strip() for answer, text in zip(different, texts, strict=True)}
        return [decoded[tuple(answer)] for answer in tokens]


def _content(path: Path) -> bytes:
    """Returns the content of a saved file, without options of how the checkpoint was fetched."""
    if path.name != "tokenizer_config.json":
        return path.read_bytes()
    return json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "local_files_only"}).encode()
