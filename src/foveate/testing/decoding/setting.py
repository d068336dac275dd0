"""What modes of decoding are tried on, and how their results are compared with a reference."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from foveate.compressors import Compressor, DecoderCompressor, Pipeline, VisionCompressor
from foveate.compressors.result import Result
from foveate.scorers import PromptAttention, Uniform
from foveate.testing.families import END, FAMILIES, IMAGE, PAD, START, VIDEO, image_inputs

Truth = Callable[["Setting", Result, list[list[int]]], list[Tensor]]
"""Per prompt the logits at each token that remains to the end, and at each of the tokens that follow the prompt."""

NEW = 4
TOLERANCE = 1e-4  # of the largest logit
BEHIND = ([9, 10, 11], [12, 13, 14, 15, 16])  # text behind the images of the two prompts
MORE = [20, 21, 22]
GREEDY: dict[str, Any] = {
    "max_new_tokens": NEW,
    "min_new_tokens": NEW,
    "do_sample": False,
    "return_dict_in_generate": True,
    "output_logits": True,
    "suppress_tokens": [IMAGE, VIDEO],  # stock models take them for an image that is not given
}
PLACES = ("before it, repacked", "before it, original positions", "inside it", "before and inside it")


class Differs(AssertionError):
    """A mode gave something else than the reference."""


class NotRunnable(Exception):
    """The stock model cannot do this either."""


@dataclass(frozen=True)
class Setting:
    """A family, a compressor and two prompts of different lengths about images of different shapes.

    Attributes:
        family: Name of the family.
        place: One of `PLACES`.
        truth: The reference.
        rows: How many of the two prompts are given.
        seed: Of the images.
    """

    family: str
    place: str
    truth: Truth
    rows: int = 2
    seed: int = 0

    @cached_property
    def model(self) -> Any:  # noqa: ANN401 (a class per family)
        return cast(Any, FAMILIES[self.family]())

    @property
    def compressor(self) -> Compressor:
        layer = 3 if self.family == "Qwen3-VL" else 2  # behind the blocks that add to visual tokens
        inside = DecoderCompressor(PromptAttention(layer - 1), 3, layer)
        before = VisionCompressor(Uniform(), 6)
        repacked, original, cut, both = PLACES
        return {
            repacked: before,
            original: VisionCompressor(Uniform(), 6, positions="original"),
            cut: inside,
            both: Pipeline((before, inside)),
        }[self.place]

    @property
    def token(self) -> int:
        """The placeholder of images."""
        return VIDEO if self.family == "LLaVA-NeXT-Video" else IMAGE

    @cached_property
    def images(self) -> list[dict[str, Tensor]]:
        """One of each prompt."""
        found = image_inputs(self.family, self.seed)
        return [found[1], found[0]][: self.rows]

    @cached_property
    def prompts(self) -> list[list[int]]:
        """Without padding."""
        counts = [self._count(image) for image in self.images]
        return [
            [5, 6, START, *[self.token] * count, END, *behind]
            for count, behind in zip(counts, BEHIND[: self.rows], strict=True)
        ]

    @property
    def inputs(self) -> dict[str, Any]:
        """What a processor would give, left-padded."""
        longest = max(map(len, self.prompts))
        ids = torch.tensor([[PAD] * (longest - len(prompt)) + prompt for prompt in self.prompts])
        inputs = {name: torch.cat([image[name] for image in self.images]) for name in self.images[0]}
        inputs |= {"input_ids": ids, "attention_mask": (ids != PAD).long()}
        if "image_grid_thw" in inputs:
            inputs["mm_token_type_ids"] = (ids == self.token).int()
        return inputs

    @property
    def features(self) -> Any:  # noqa: ANN401
        """What the stock model makes of the images."""
        images = {name: torch.cat([image[name] for image in self.images]) for name in self.images[0]}
        get = self.model.get_video_features if self.token == VIDEO else self.model.get_image_features
        return get(**images, return_dict=True)

    def _count(self, image: dict[str, Tensor]) -> int:
        get = self.model.get_video_features if self.token == VIDEO else self.model.get_image_features
        with torch.no_grad():
            tokens = get(**image, return_dict=True).pooler_output
        return sum(len(part) for part in tokens)

    def next_logits(self, run: Result, said: Sequence[Sequence[int]]) -> list[Tensor]:
        """Reference logits of the token behind each prompt, and behind each token said."""
        with torch.no_grad():
            rows = self.truth(self, run, [list(tokens) for tokens in said])
        return [row[len(row) - len(tokens) - 1 :] for row, tokens in zip(rows, said, strict=True)]


def close(found: Tensor, wanted: Tensor, what: str) -> None:
    """Raises `Differs` unless tensors are equal but for rounding."""
    if found.shape != wanted.shape:
        raise Differs(f"{what} of shape {tuple(found.shape)} instead of {tuple(wanted.shape)}")
    difference, scale = float((found - wanted).abs().max()), float(wanted.abs().max())
    if not difference < TOLERANCE * scale:
        raise Differs(f"{what} by {difference:.2g} of {scale:.2g}")


def same(found: object, wanted: object, what: str) -> None:
    """Raises `Differs` unless values are equal."""
    if found != wanted:
        raise Differs(f"{what}: {found} instead of {wanted}")


def stock(setting: Setting, **options: Any) -> None:  # noqa: ANN401
    """Raises `NotRunnable` unless the stock model can do it."""
    try:
        setting.model.generate(**setting.inputs, **options)
    except Exception as error:
        raise NotRunnable(f"{type(error).__name__}: {error}") from error


def said_by(setting: Setting, output: Any) -> list[list[int]]:  # noqa: ANN401
    """Returns the new tokens of each sequence, behind the prompt as it was given."""
    ids = setting.inputs["input_ids"]
    times = len(output.sequences) // len(ids)
    if not torch.equal(output.sequences[:, : ids.shape[1]], ids.repeat_interleave(times, 0)):
        raise Differs("the prompt that is returned")
    return output.sequences[:, ids.shape[1] :].tolist()


def words(logits: Tensor) -> Tensor:
    """Logits by which no placeholder is chosen."""
    logits = logits.clone()
    logits[..., [IMAGE, VIDEO]] = -torch.inf
    return logits


def steps(setting: Setting, run: Result, output: Any, times: int = 1) -> None:  # noqa: ANN401
    """Compares the logits of each step of `generate`."""
    said = said_by(setting, output)
    for copy in range(times):
        own = said[copy::times]
        for row, wanted in enumerate(setting.next_logits(run, [tokens[:-1] for tokens in own])):
            found = torch.stack([step[row * times + copy] for step in output.logits])
            close(found, wanted, f"logits of prompt {row}")
