"""Random batches of prompts about images with compressors, and the comparison with the oracle."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from foveate.compressors import Compressor, DecoderCompressor, Pipeline, VisionCompressor
from foveate.core.errors import FoveateError
from foveate.core.trace import PADDING
from foveate.mergers import DroppedMean, Nearest
from foveate.scorers import PromptAttention, Random, Uniform
from foveate.testing.families import (
    END,
    FAMILIES,
    IMAGE,
    PAD,
    START,
    VIDEO,
    WITHOUT_CUTS,
    frames_of,
    image_inputs,
    placeholders,
    video_inputs,
)
from foveate.testing.matrix import with_tokenizer
from tests.oracle import oracle

TOLERANCE = 1e-4  # share of the largest logit
SEEDS = st.integers(0, 5)
POSITIONS = st.sampled_from(["repacked", "original"])


@dataclass(frozen=True)
class Case:
    """A batch of prompts and its compressor.

    Attributes:
        family: Name of the model's family.
        texts: The text before, between and after the images of each prompt.
        images: The numbers of the images and videos of each prompt; see `image`.
        compressor: The attached compressor.
        right: Whether the batch is padded on the right.
        masked: Whether the caller gives a padding mask.
    """

    family: str
    texts: tuple[tuple[tuple[int, ...], ...], ...]
    images: tuple[tuple[int, ...], ...]
    compressor: Compressor
    right: bool = False
    masked: bool = True

    def attached(self) -> Any:
        """Attaches the compressor to the model, with its tokenizer where words tell videos from images."""
        model = model_of(self.family)
        return self.compressor.attached(with_tokenizer(self.family, model) if self.family == "InternVL" else model)

    @property
    def cuts(self) -> bool:
        return bool(self.compressor.cuts)


@cache
def model_of(family: str) -> Any:
    return FAMILIES[family]()


@cache
def assistant_of(family: str) -> Any:
    """Returns an assistant model, which predicts some tokens correctly."""
    model: Any = FAMILIES[family]()
    with torch.no_grad():
        model.lm_head.weight.mul_(torch.rand(len(model.lm_head.weight), 1).add(0.5))
    return model


@cache
def image(family: str, number: int) -> dict[str, Tensor]:
    """Returns the inputs of an image or video; those from number 4 on are videos."""
    return [*image_inputs(family), *video_inputs(family)][number]


@cache
def _length(family: str, number: int) -> int:
    """Returns the number of placeholders of an image or video."""
    return len(oracle.seen(model_of(family), image(family, number)).tokens)


def prompts_of(case: Case) -> list[oracle.Prompt]:
    """Returns the prompts without padding."""
    prompts = []
    for texts, numbers in zip(case.texts, case.images, strict=True):
        ids = list(texts[0])
        for number, text in zip(numbers, texts[1:], strict=True):
            run = _run(case.family, number)
            around = case.family.startswith(oracle.AXES)
            ids += [START] * around + run + [END] * (around and bool(text)) + list(text)
        prompts.append(oracle.Prompt(ids, [image(case.family, n) for n in numbers]))
    return prompts


def _run(family: str, number: int) -> list[int]:
    """Returns the placeholders of an image or video, and the text between them."""
    own = image(family, number)
    frames = frames_of(own) if number >= len(image_inputs(family)) else 0
    return placeholders(family, oracle.placeholder(own), _length(family, number), frames)


def inputs_of(case: Case) -> dict[str, Any]:
    """Returns the inputs that a processor would return for the batch."""
    prompts = prompts_of(case)
    longest = max(len(prompt.ids) for prompt in prompts)

    def padded(ids: list[int]) -> list[int]:
        pad = [PAD] * (longest - len(ids))
        return ids + pad if case.right else pad + ids

    ids = torch.tensor([padded(prompt.ids) for prompt in prompts])
    images = [image for prompt in prompts for image in prompt.images]
    names = {name for image in images for name in image}
    inputs: dict[str, Any] = {name: torch.cat([i[name] for i in images if name in i]) for name in names}
    inputs["input_ids"] = ids
    if case.masked:
        inputs["attention_mask"] = (ids != PAD).long()
    if case.family == "Gemma 3":
        inputs["token_type_ids"] = (ids == IMAGE).long()
    if case.family.startswith(oracle.AXES):
        inputs["mm_token_type_ids"] = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
    return inputs


def expected(case: Case, run: Any) -> list[tuple[oracle.Tokens, list[oracle.Cut]]]:
    """Returns the remaining tokens and the cuts of each prompt, from the kept patches of `run`."""
    return expected_of(model_of(case.family), case.family, prompts_of(case), case.compressor, run)


def expected_of(
    model: Any, family: str, prompts: Sequence[oracle.Prompt], compressor: Compressor, run: Any
) -> list[tuple[oracle.Tokens, list[oracle.Cut]]]:
    """Returns the same as `expected` for any prompts."""
    compression = run.decisions[0].compression
    separators = all(getattr(part, "separators", True) for part in getattr(compressor, "parts", (compressor,)))
    found, first = [], 0
    for row, prompt in enumerate(prompts):
        choices = []
        for number in range(first, first + len(prompt.images)):
            real = compression.origin[number] != PADDING
            mixing = None if compression.mixing is None else compression.mixing[number][real]
            choices.append(oracle.Choice(compression.origin[number][real].tolist(), mixing))
        first += len(prompt.images)
        tokens = oracle.remaining(model, family, prompt, choices, compressor.repack, separators)
        cuts = [
            oracle.Cut(cut.layer, decision.compression.kept[row].tolist(), cut.positions == "repacked")
            for cut, decision in zip(compressor.cuts, run.decisions[1:], strict=True)
        ]
        found.append((tokens, cuts))
    return found


def close(found: Tensor, wanted: Tensor, what: str) -> None:
    """Checks that logits are equal up to rounding."""
    assert found.shape == wanted.shape, f"{what}: {tuple(found.shape)} instead of {tuple(wanted.shape)}"
    found, wanted = found.detach(), wanted.detach()
    difference, scale = float((found - wanted).abs().max()), float(wanted.abs().max())
    assert difference < TOLERANCE * scale, f"{what}: differs by {difference:.3g} of {scale:.3g}"


def or_refused(call: Callable[[], Any], message: str | None) -> Any:
    """Returns the result of a call, or None if it raises the expected error.

    Args:
        call: The function to call.
        message: Part of the message of the allowed error; None if the call must succeed.
    """
    try:
        return call()
    except (FoveateError, ValueError) as error:
        if message is None or message not in str(error):
            raise
        return None


@st.composite
def visions(draw: Any, cut: bool = False) -> VisionCompressor:
    """Draws a compressor before the language model; `cut` means that cuts follow."""
    merger = draw(st.sampled_from([None, None, Nearest(), *([] if cut else [DroppedMean()])]))
    return VisionCompressor(
        draw(st.one_of(st.builds(Random, SEEDS), st.just(Uniform()))),
        draw(st.one_of(st.integers(2, 8), st.sampled_from([0.15, 0.4, 0.7] + ([] if cut else [1.0])))),
        positions=draw(POSITIONS),
        separators=draw(st.booleans()),
        **({} if merger is None else {"merger": merger, "merge_projected": True}),
    )


@st.composite
def cuttings(draw: Any, family: str) -> list[DecoderCompressor]:
    """Draws one or two cuts inside the language model."""
    layers = sorted(
        draw(st.sets(st.integers(*((2, 5) if family.startswith("Qwen3-VL") else (1, 3))), min_size=1, max_size=2))
    )
    return [
        DecoderCompressor(
            PromptAttention(layer - draw(st.integers(0, 1)) if number == 0 else layer),
            draw(st.one_of(st.integers(1, 8), st.sampled_from([0.1, 0.3, 0.5]))),
            layer,
            positions=draw(POSITIONS),
        )
        for number, layer in enumerate(layers)
    ]


@st.composite
def cases(draw: Any, family: str, kinds: Sequence[str] = ("vision", "cut", "both"), rows: int = 3) -> Case:
    """Draws a batch of the supported kinds."""
    kinds = [kind for kind in kinds if kind == "vision" or family not in WITHOUT_CUTS]
    kind = draw(st.sampled_from(kinds))
    if kind == "vision":
        compressor: Compressor = draw(visions())
    else:
        parts: list[Compressor] = list(draw(cuttings(family)))
        if kind == "both":
            parts.insert(0, draw(visions(cut=True)))
        compressor = parts[0] if len(parts) == 1 else Pipeline(tuple(parts))
    count = draw(st.integers(1, rows))
    if kind == "vision":
        counts = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count).filter(any))
    else:
        counts = [draw(st.integers(1, 3))] * count
    last = 3 + len(video_inputs(family))
    images = tuple(tuple(draw(st.lists(st.integers(0, last), min_size=n, max_size=n))) for n in counts)
    texts = tuple(tuple(tuple(draw(_text(family, at, n))) for at in range(n + 1)) for n in counts)
    right, masked = draw(st.booleans()), draw(st.booleans())
    return Case(family, texts, images, compressor, right, masked)


def _text(family: str, at: int, images: int) -> Any:
    """Draws the text before image `at`, which is not empty without images and between InternVL's images."""
    between = 0 < at < images and family == "InternVL"
    return st.lists(st.integers(5, 115), min_size=int(images == 0 or between), max_size=4)


def ends_with_an_image_seen_both_ways(case: Case) -> bool:
    """Returns whether a prompt ends with an image of Gemma 3.

    Without a cache, or when several tokens are guessed, the stock model then takes new tokens for further ones of this
    image: `generate` repeats the last token type.
    """
    return case.family == "Gemma 3" and any(
        images and not texts[-1] for images, texts in zip(case.images, case.texts, strict=True)
    )


def mixes_images_up(case: Case) -> bool:
    """Returns whether the stock model repeats the images of a prompt in the wrong order for several sequences.

    GLM of transformers 5.23 repeats each image by itself, so that the second sequence gets images of the first.
    """
    return case.family.startswith("GLM") and any(len(images) > 1 for images in case.images)


def ends_whole(case: Case) -> bool:
    """Returns whether a prompt ends with an image from which no token was removed before the language model."""
    whole = getattr(case.compressor, "keep", None) == 1.0 and not case.cuts
    return whole and any(images and not texts[-1] for images, texts in zip(case.images, case.texts, strict=True))
