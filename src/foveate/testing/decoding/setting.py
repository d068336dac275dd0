"""The models, prompts and compressors that modes of decoding run on, and the comparison with a reference."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from foveate.compressors import Compressor, DecoderCompressor, Pipeline, VisionCompressor
from foveate.compressors.result import Result
from foveate.models.loading.load import adapt
from foveate.scorers import PromptAttention, Uniform
from foveate.testing.families import END, FAMILIES, IMAGE, PAD, START, VIDEO, image_inputs, placeholders

Reference = Callable[["Setting", Result, list[list[int]]], list[Tensor]]
"""Computes for each prompt the logits at each remaining token, and at each of the tokens that follow the prompt."""

NEW = 4
TOLERANCE = 1e-4  # share of the largest logit
QUESTIONS = ([9, 10, 11], [12, 13, 14, 15, 16])  # text after the images of the two prompts
MORE = [20, 21, 22]
GREEDY: dict[str, Any] = {
    "max_new_tokens": NEW,
    "min_new_tokens": NEW,
    "do_sample": False,
    "return_dict_in_generate": True,
    "output_logits": True,
    "suppress_tokens": [IMAGE, VIDEO],  # stock models would expect the image of a generated placeholder
}
COMPRESSIONS = ("before it, repacked", "before it, original positions", "inside it", "before and inside it")


class Differs(AssertionError):
    """The error of a mode whose result differs from the reference."""


class NotRunnable(Exception):
    """The error of a mode that the stock model does not support."""


@dataclass(frozen=True)
class Setting:
    """A family, a compressor and two prompts of different lengths about images of different shapes.

    Attributes:
        family: Name of the family.
        compression: One of `COMPRESSIONS`.
        reference: Computes the reference logits.
        rows: Number of prompts, one or two.
        seed: Seed of the images.
    """

    family: str
    compression: str
    reference: Reference
    rows: int = 2
    seed: int = 0

    @cached_property
    def model(self) -> Any:  # noqa: ANN401 (a class per family)
        return cast(Any, FAMILIES[self.family]())

    @property
    def compressor(self) -> Compressor:
        layer = 3 if self.family.startswith("Qwen3-VL") else 2  # after the blocks with DeepStack features
        inside = DecoderCompressor(PromptAttention(layer - 1), 3, layer)
        before = VisionCompressor(Uniform(), 6)
        repacked, original, cut, both = COMPRESSIONS
        return {
            repacked: before,
            original: VisionCompressor(Uniform(), 6, positions="original"),
            cut: inside,
            both: Pipeline((before, inside)),
        }[self.compression]

    @property
    def token(self) -> int:
        """The placeholder of images."""
        return IMAGE

    @cached_property
    def images(self) -> list[dict[str, Tensor]]:
        """The model inputs of the image of each prompt."""
        images = image_inputs(self.family, self.seed)
        return [images[1], images[0]][: self.rows]

    @cached_property
    def prompts(self) -> list[list[int]]:
        """The token ids of each prompt, without padding."""
        counts = [self._count(image) for image in self.images]
        return [
            [5, 6, START, *placeholders(self.family, self.token, count), END, *question]
            for count, question in zip(counts, QUESTIONS[: self.rows], strict=True)
        ]

    @property
    def inputs(self) -> dict[str, Any]:
        """The model inputs of the batch, left-padded."""
        longest = max(map(len, self.prompts))
        ids = torch.tensor([[PAD] * (longest - len(prompt)) + prompt for prompt in self.prompts])
        inputs = {name: torch.cat([image[name] for image in self.images]) for name in self.images[0]}
        inputs |= {"input_ids": ids, "attention_mask": (ids != PAD).long()}
        return {**inputs, **adapt(self.model).token_types(ids)}

    @property
    def features(self) -> Any:  # noqa: ANN401
        """The stock model's features of the images."""
        images = {name: torch.cat([image[name] for image in self.images]) for name in self.images[0]}
        get = self.model.get_video_features if self.token == VIDEO else self.model.get_image_features
        return get(**images, return_dict=True)

    def _count(self, image: dict[str, Tensor]) -> int:
        get = self.model.get_video_features if self.token == VIDEO else self.model.get_image_features
        with torch.no_grad():
            tokens = get(**image, return_dict=True).pooler_output
        return sum(len(part) for part in tokens)

    def next_logits(self, run: Result, answers: Sequence[Sequence[int]]) -> list[Tensor]:
        """Returns reference logits of the token after each prompt, and after each token of the answers."""
        with torch.no_grad():
            rows = self.reference(self, run, [list(tokens) for tokens in answers])
        return [row[len(row) - len(tokens) - 1 :] for row, tokens in zip(rows, answers, strict=True)]


def check_close(found: Tensor, expected: Tensor, name: str) -> None:
    """Raises `Differs` unless tensors are equal up to rounding."""
    if found.shape != expected.shape:
        raise Differs(f"{name} of shape {tuple(found.shape)} instead of {tuple(expected.shape)}")
    difference, scale = float((found - expected).abs().max()), float(expected.abs().max())
    if not difference < TOLERANCE * scale:
        raise Differs(f"{name} by {difference:.2g} of {scale:.2g}")


def check_equal(found: object, expected: object, name: str) -> None:
    """Raises `Differs` unless values are equal."""
    if found != expected:
        raise Differs(f"{name}: {found} instead of {expected}")


def check_stock(setting: Setting, **options: Any) -> None:  # noqa: ANN401
    """Raises `NotRunnable` unless the stock model supports these options."""
    try:
        setting.model.generate(**setting.inputs, **options)
    except Exception as error:
        raise NotRunnable(f"{type(error).__name__}: {error}") from error


def new_tokens(setting: Setting, output: Any) -> list[list[int]]:  # noqa: ANN401
    """Returns the new tokens of each sequence; raises `Differs` if the returned prompt is not the full prompt."""
    ids = setting.inputs["input_ids"]
    times = len(output.sequences) // len(ids)
    if not torch.equal(output.sequences[:, : ids.shape[1]], ids.repeat_interleave(times, 0)):
        raise Differs("the returned prompt")
    return output.sequences[:, ids.shape[1] :].tolist()


def without_placeholders(logits: Tensor) -> Tensor:
    """Returns logits in which placeholders have probability 0."""
    logits = logits.clone()
    logits[..., [IMAGE, VIDEO]] = -torch.inf
    return logits


def check_steps(setting: Setting, run: Result, output: Any, times: int = 1) -> None:  # noqa: ANN401
    """Checks the logits of each step of `generate`, with `times` sequences per prompt."""
    answers = new_tokens(setting, output)
    for copy in range(times):
        own = answers[copy::times]
        for row, expected in enumerate(setting.next_logits(run, [tokens[:-1] for tokens in own])):
            found = torch.stack([step[row * times + copy] for step in output.logits])
            check_close(found, expected, f"logits of prompt {row}")
