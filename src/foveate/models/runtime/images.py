"""Images as a live model sees them, with what is asked about them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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
    Features,
    Fingerprint,
    Need,
    QuestionEmbeddings,
    ResponseRows,
)
from foveate.core.trace import Trace
from foveate.functional.fingerprint import fingerprints
from foveate.models.backbone.adapter import Adapter, ImageInputs
from foveate.models.backbone.text_encoder import Companion
from foveate.models.runtime.response_attention import response_rows

Reader = Callable[[list[list[int]]], list[str]]
"""Turns token ids into text."""


@dataclass(frozen=True, eq=False)
class TextSide:
    """What a bare model does not know of texts.

    Attributes:
        companion: A text encoder that shares a space with the tower.
        spell: How to read token ids.
        tail: What the chat template puts behind every question.
    """

    companion: Companion | None = None
    spell: Reader | None = None
    tail: Sequence[int] = ()


@dataclass(frozen=True, eq=False)
class Texts:
    """What a text-aware scorer may read, one entry per image.

    Attributes:
        prompts: Full prompts of one image each, with all placeholders.
        questions: Token ids of the questions.
        spelled: The questions as text; None if nobody can read them.
    """

    prompts: Sequence[Sequence[int]]
    questions: Sequence[Sequence[int]]
    spelled: Sequence[str] | None

    def of(self, rows: Sequence[int]) -> "Texts":
        """About some of the images."""
        spelled = None if self.spelled is None else [self.spelled[row] for row in rows]
        return Texts([self.prompts[row] for row in rows], [self.questions[row] for row in rows], spelled)


class LiveImages(ImageBatch):
    """Images of one arrangement given as pixels, encoded when asked for.

    Args:
        adapter: Of the model.
        images: The model's inputs about them.
        arrangement: Of all.
        texts: Tells what is asked about them, if a need makes that necessary.
        companion: A text encoder that shares a space with the tower.
    """

    def __init__(
        self,
        adapter: Adapter,
        images: ImageInputs,
        arrangement: Arrangement,
        texts: Callable[[], Texts] | None = None,
        companion: Companion | None = None,
    ) -> None:
        self.adapter, self.images, self.arrangement = adapter, images, arrangement
        self.texts, self.companion = texts, companion

    def encode(self, needs: Sequence[Need]) -> tuple[Tensor, Trace]:
        needs = with_extra_needs(self.adapter, needs)
        sources, values = self.adapter.encode(self.images, self.arrangement, needs)
        if others := [need for need in needs if need not in values]:
            texts = self.texts() if self.texts else None
            asked = NeedContext(self.adapter, self.arrangement, texts, self.companion)
            values |= {need: resolve_need(asked, need, sources, values) for need in others}
        return sources, Trace.recorded(values, self.arrangement, len(sources))

    def project(self, features: Float[Tensor, "image token width"]) -> Float[Tensor, "image token dim"]:
        return self.adapter.project(features)

    def reduced(self, reduction: Reduction, keep: int) -> tuple[Float[Tensor, "image token dim"], Compression]:
        return self.adapter.reduced(self.images, reduction, keep)


class GivenImages(ImageBatch):
    """Images given as tokens behind the projector, whose tower nobody can ask any more.

    Raises:
        ValueError: They are not as many as the tower has patches.
    """

    def __init__(self, tokens: Float[Tensor, "image patch dim"], arrangement: Arrangement) -> None:
        self.tokens, self.arrangement = tokens, arrangement
        if tokens.shape[1] != arrangement.patches or arrangement.separators:
            raise ValueError(
                f"mm_encoder_outputs holds {tokens.shape[1]} tokens per image, expected all {arrangement.patches} "
                "patches and nothing between them: give pixel_values instead"
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
                        f"{need} cannot be answered of images that were given as mm_encoder_outputs: give "
                        "pixel_values, or use a method that needs no tower, such as fastv, divprune or uniform"
                    )
        return self.tokens, Trace.recorded(values, self.arrangement, len(self.tokens))

    def project(self, features: Float[Tensor, "image token width"]) -> Float[Tensor, "image token dim"]:
        return features

    def reduced(self, reduction: Reduction, keep: int) -> tuple[Float[Tensor, "image token dim"], Compression]:
        raise UnsupportedNeed(f"{reduction} works inside the vision tower: give pixel_values, not mm_encoder_outputs")


@dataclass(frozen=True, eq=False)
class NeedContext:
    """Images of one arrangement with what is asked about them."""

    adapter: Adapter
    arrangement: Arrangement
    texts: Texts | None
    companion: Companion | None


def with_extra_needs(adapter: Adapter, needs: Sequence[Need]) -> tuple[Need, ...]:
    """The needs, and what the language model must be given of images if it shall answer one of them."""
    runs = any(isinstance(need, ResponseRows) for need in needs)
    return tuple(dict.fromkeys((*needs, *adapter.extra_needs))) if runs else tuple(needs)


def resolve_need(asked: NeedContext, need: Need, sources: Tensor, values: Mapping[Need, Tensor]) -> Tensor:
    """The answer to a need that images alone cannot give.

    Args:
        asked: The images.
        need: What is to be told.
        sources: As the tower gives them.
        values: What it answered.

    Raises:
        UnsupportedNeed: What would be needed for it is not there; the message says what.
    """
    adapter, texts, companion = asked.adapter, asked.texts, asked.companion
    patches = sources[:, : asked.arrangement.patches]
    match need:
        case AlignedPatches() if companion and adapter.packs_projected:
            raise UnsupportedNeed(
                f"{need}: {type(adapter.model).__name__} has a tower of its own, which no CLIP shares a space with"
            )
        case AlignedPatches() if companion:
            return companion.patches(patches)
        case AlignedText() if companion and texts and texts.spelled is not None:
            return companion.texts(texts.spelled, need.truncated)
        case AlignedPatches() | AlignedText():
            raise UnsupportedNeed(
                f"{need}: a LLaVA checkpoint has no text encoder that shares a space with its vision tower. Load the "
                "model by foveate.models.loading.load.load(..., companion='openai/clip-vit-large-patch14-336') with "
                "the CLIP that its tower came from, and attach to what that returns"
            )
        case QuestionEmbeddings() if texts:
            table = adapter.inner.get_input_embeddings()
            words = [table(torch.tensor(ids, dtype=torch.long, device=sources.device)) for ids in texts.questions]
            return pad_sequence(words, batch_first=True)
        case ResponseRows() if texts:
            if any(list(prompt).count(adapter.image_token) != asked.arrangement.length for prompt in texts.prompts):
                raise UnsupportedNeed(f"{need}: it is known for prompts with one image each")
            everything = torch.arange(patches.shape[1], device=sources.device).expand(len(sources), -1)
            decision = Decision(torch.zeros_like(patches[..., 0]), Compression(everything))
            full = Compressed(adapter.project(patches), decision, (asked.arrangement,) * len(sources), carried=values)
            return response_rows(adapter, texts.prompts, full, need)
    raise UnsupportedNeed(f"{need}: {type(adapter.model).__name__} cannot answer it from what it was given")
