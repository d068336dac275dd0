"""Images of a live model, with the questions about them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from foveate.core.arrangement import Arrangement
from foveate.core.compression import Compressed, Compression, Decision
from foveate.core.contracts import ImageBatch, Reduction
from foveate.core.errors import UnsupportedNeed
from foveate.core.needs import (
    AlignedPatches,
    AlignedText,
    AlignedWords,
    Features,
    Fingerprint,
    Need,
    QuestionEmbeddings,
    ResponseRows,
    Sensitivity,
)
from foveate.core.trace import Trace
from foveate.core.transfer import on_device
from foveate.functional.fingerprint import fingerprints
from foveate.functional.sensitivity import random_directions, sensitivity
from foveate.models.backbone.adapter import Adapter, ImageInputs
from foveate.models.backbone.grouping import group_by_shape
from foveate.models.backbone.text_encoder import Companion
from foveate.models.runtime.response_attention import response_rows

Decode = Callable[[list[list[int]]], list[str]]
"""Turns token ids into text."""


@dataclass(frozen=True, eq=False)
class TextSide:
    """The parts of a checkpoint that handle text and are not in the model itself.

    Attributes:
        companion: The CLIP that the tower was taken from.
        decode: Turns token ids into text.
        tail: Token ids that the chat template puts after every question.
    """

    companion: Companion | None = None
    decode: Decode | None = None
    tail: Sequence[int] = ()


@dataclass(frozen=True, eq=False)
class Texts:
    """The texts that a text-aware scorer may read, one entry per image.

    Attributes:
        prompts: Full prompts of one image each, with all placeholders.
        questions: Token ids of the questions.
        strings: The questions as text; None without a tokenizer.
    """

    prompts: Sequence[Sequence[int]]
    questions: Sequence[Sequence[int]]
    strings: Sequence[str] | None

    def of(self, rows: Sequence[int]) -> "Texts":
        """Returns the texts of some of the images."""
        strings = None if self.strings is None else [self.strings[row] for row in rows]
        return Texts([self.prompts[row] for row in rows], [self.questions[row] for row in rows], strings)


def texts_of(adapter: Adapter, side: TextSide, prompts: Sequence[Sequence[int]], images: Sequence[int]) -> Texts:
    """Returns for each image its prompt, and as question the text after the prompt's last image.

    Args:
        adapter: The model's adapter.
        side: Decodes the questions.
        prompts: Token ids with all placeholders, without padding.
        images: Number of images of each prompt.
    """
    owners = [list(prompt) for prompt, count in zip(prompts, images, strict=True) for _ in range(count)]
    questions = [adapter.question(prompt, side.tail) for prompt in owners]
    return Texts(owners, questions, side.decode(questions) if side.decode else None)


class LiveImages(ImageBatch):
    """Images of one arrangement given as pixels, encoded on demand.

    Args:
        adapter: The model's adapter.
        images: The model inputs of the images.
        arrangement: The arrangement of all images.
        texts: Returns the questions about the images; called only if a need requires them.
        companion: The CLIP that the tower was taken from.
        on_host: Returns the inputs with the pixels on the host; None if they are not known there.
    """

    def __init__(
        self,
        adapter: Adapter,
        images: ImageInputs,
        arrangement: Arrangement,
        texts: Callable[[], Texts] | None = None,
        companion: Companion | None = None,
        on_host: Callable[[], ImageInputs] | None = None,
    ) -> None:
        self.adapter, self.images, self.arrangement = adapter, images, arrangement
        self.texts, self.companion, self.on_host = texts, companion, on_host

    def encode(self, needs: Sequence[Need]) -> tuple[Tensor, Trace]:
        needs = with_extra_needs(self.adapter, needs)
        # Pixels on the device are read before the tower, for which the host would have to wait.
        early = {} if self.on_host else self._hashed(needs)
        of_tower = [need for need in needs if need != Fingerprint()]
        sources, values = self.adapter.encode(self.images, self.arrangement, of_tower)
        values |= self._hashed(needs) if self.on_host else early
        if others := [need for need in needs if need not in values]:
            texts = self.texts() if self.texts else None
            context = NeedContext(self.adapter, self.arrangement, texts, self.companion)
            values |= {need: resolve_need(context, need, sources, values) for need in others}
        return sources, Trace.recorded(values, self.arrangement, len(sources))

    def _hashed(self, needs: Sequence[Need]) -> dict[Need, Tensor]:
        """Returns the answer to `Fingerprint`, if it is a need."""
        if Fingerprint() not in needs:
            return {}
        images = self.on_host() if self.on_host else self.images
        return {Fingerprint(): self.adapter.fingerprints(images, self.arrangement)}

    def project(self, features: Float[Tensor, "image token width"]) -> Float[Tensor, "image token dim"]:
        return self.adapter.project(features)

    def reduced(self, reduction: Reduction, keep: int) -> tuple[Float[Tensor, "image token dim"], Compression]:
        return self.adapter.reduced(self.images, reduction, keep)


def live_by_shape(
    adapter: Adapter,
    images: ImageInputs,
    arrangements: Sequence[Arrangement],
    texts: Callable[[], Texts],
    companion: Companion | None,
    on_host: ImageInputs | None = None,
) -> tuple[list[list[int]], Callable[[list[int]], LiveImages]]:
    """Returns groups of images of the same arrangement, and a function from a group to its images, for `in_groups`.

    Args:
        adapter: The model's adapter.
        images: The model inputs of all images.
        arrangements: Their arrangements.
        texts: Returns the questions about all images; called only if a need requires them.
        companion: The CLIP that the tower was taken from.
        on_host: The same inputs with the pixels on the host; None if they are not known there.
    """
    once = cache(texts)

    def group(rows: list[int]) -> LiveImages:
        some, first = chosen(adapter, images, rows, arrangements), arrangements[rows[0]]
        read = partial(chosen, adapter, on_host, rows, arrangements) if on_host else None
        return LiveImages(adapter.of(first), some, first, lambda: once().of(rows), companion, read)

    return group_by_shape(arrangements), group


def chosen(
    adapter: Adapter, images: ImageInputs, rows: Sequence[int], arrangements: Sequence[Arrangement]
) -> ImageInputs:
    """Returns the model inputs of some of the images and videos of a call; see `Adapter.chosen`."""
    if len(rows) == len(arrangements):
        return images
    found: dict[str, Tensor] = {}
    for kind in adapter.apart:
        own = [row for row, one in enumerate(arrangements) if adapter.shares_inputs or adapter.of(one) is kind]
        if some := [own.index(row) for row in rows if row in own]:
            found |= kind.chosen(images, some, [arrangements[row] for row in own])
    return found


class GivenImages(ImageBatch):
    """Images given as tokens after the projector, for which the tower cannot run any more.

    Raises:
        ValueError: The number of tokens differs from the tower's number of patches.
    """

    def __init__(self, tokens: Float[Tensor, "image patch dim"], arrangement: Arrangement) -> None:
        self.tokens, self.arrangement = tokens, arrangement
        if tokens.shape[1] != arrangement.patches or arrangement.separators:
            raise ValueError(
                f"mm_encoder_outputs holds {tokens.shape[1]} tokens per image: expected one for each of the "
                f"{arrangement.patches} patches and no separators; give pixel_values instead"
            )

    def encode(self, needs: Sequence[Need]) -> tuple[Tensor, Trace]:
        values: dict[Need, Tensor] = {}
        for need in needs:
            match need:
                case Features(projected=True):
                    values[need] = self.tokens
                case Fingerprint():
                    values[need] = fingerprints(self.tokens)
                case _:
                    raise UnsupportedNeed(
                        f"{need} cannot be answered for images given as mm_encoder_outputs: give pixel_values, or use "
                        "a method that does not read the tower, such as fastv, divprune or uniform"
                    )
        return self.tokens, Trace.recorded(values, self.arrangement, len(self.tokens))

    def project(self, features: Float[Tensor, "image token width"]) -> Float[Tensor, "image token dim"]:
        return features

    def reduced(self, reduction: Reduction, keep: int) -> tuple[Float[Tensor, "image token dim"], Compression]:
        raise UnsupportedNeed(f"{reduction} works inside the vision tower: give pixel_values, not mm_encoder_outputs")


@dataclass(frozen=True, eq=False)
class NeedContext:
    """Images of one arrangement with the questions about them, for `resolve_need`."""

    adapter: Adapter
    arrangement: Arrangement
    texts: Texts | None
    companion: Companion | None

    def among_others(self, prompt: Sequence[int]) -> bool:
        """Returns whether a prompt has other images or videos than one of this arrangement."""
        placeholders = self.adapter.placeholders  # of a configuration, which is slow to read
        return sum(token in placeholders for token in prompt) != self.arrangement.length


def with_extra_needs(adapter: Adapter, needs: Sequence[Need]) -> tuple[Need, ...]:
    """Returns the needs, with those that the answers to others are made of.

    These are the needs that the language model reads itself, if it has to run, and features, if the projector has to.
    """
    of_model = adapter.extra_needs if any(isinstance(need, ResponseRows) for need in needs) else ()
    of_projector = (Features(),) if any(isinstance(need, Sensitivity) for need in needs) else ()
    return tuple(dict.fromkeys((*needs, *of_model, *of_projector)))


def resolve_need(context: NeedContext, need: Need, sources: Tensor, values: Mapping[Need, Tensor]) -> Tensor:
    """Returns the answer to a need that the tower alone cannot give.

    Args:
        context: The images, and the questions about them.
        need: The need to answer.
        sources: Features of the tower.
        values: The answers of the tower.

    Raises:
        UnsupportedNeed: A model, text or companion that the need requires is missing; the message names it.
    """
    adapter, texts, companion = context.adapter, context.texts, context.companion
    patches = sources[:, : context.arrangement.patches]
    match need:
        case AlignedPatches() if companion and (adapter.packs_projected or not adapter.tower.has_cls):
            raise UnsupportedNeed(
                f"{need}: {type(adapter.model).__name__} has a tower of its own, which no CLIP shares a space with; "
                "use a method that does not compare patches with text"
            )
        case AlignedPatches() if companion:
            return companion.patches(patches, need.normed)
        case AlignedText() if companion and texts and texts.strings is not None:
            return companion.texts(texts.strings, need.truncated)
        case AlignedWords() if companion and texts and texts.strings is not None:
            return companion.words(texts.strings)
        case AlignedPatches() | AlignedText() | AlignedWords():
            raise UnsupportedNeed(
                f"{need}: a LLaVA checkpoint has no text encoder that shares a space with its vision tower. Load the "
                "model by foveate.models.loading.load.load(..., companion='openai/clip-vit-large-patch14-336') with "
                "the CLIP that its tower was taken from, and attach to the returned model"
            )
        case Sensitivity():
            return _sensitivity(adapter, need, values[Features()])
        case QuestionEmbeddings() if texts:
            table = adapter.inner.get_input_embeddings()
            words = [table(on_device(torch.tensor(ids, dtype=torch.long), sources.device)) for ids in texts.questions]
            return pad_sequence(words, batch_first=True)
        case ResponseRows() if texts:
            if any(map(context.among_others, texts.prompts)):
                raise UnsupportedNeed(
                    f"{need}: a prompt has several images or none; give one image per prompt, or use a method that "
                    "does not read the attention of the answer"
                )
            everything = torch.arange(patches.shape[1], device=sources.device).expand(len(sources), -1)
            decision = Decision(torch.zeros_like(patches[..., 0]), Compression(everything))
            full = Compressed(adapter.project(patches), decision, (context.arrangement,) * len(sources), carried=values)
            return response_rows(adapter, texts.prompts, full, need)
    raise UnsupportedNeed(
        f"{need}: {type(adapter.model).__name__} cannot answer it from these inputs; use a method that does not need it"
    )


def _sensitivity(adapter: Adapter, need: Sensitivity, features: Float[Tensor, "image patch dim"]) -> Tensor:
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    directions = random_directions(need.directions, features.shape[2], need.seed)
    return sensitivity(adapter.exact_projector(features.dtype), features, directions, need.step)
