"""Images as a live model sees them, with what is asked about them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from foveate.core.contracts import Pictures, Reduction
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
from foveate.core.types import Compressed, Compression, Decision, Trace
from foveate.functional.fingerprint import fingerprints
from foveate.models.companion import Companion
from foveate.models.engine import response_rows
from foveate.models.llava import Llava

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


class SeenPictures(Pictures):
    """Images given as pixels, encoded when asked for.

    Args:
        llava: The model.
        pixels: Of the images.
        texts: Tells what is asked about them, if a need makes that necessary.
        companion: A text encoder that shares a space with the tower.
    """

    def __init__(
        self,
        llava: Llava,
        pixels: Float[Tensor, "image channel height width"],
        texts: Callable[[], Texts] | None = None,
        companion: Companion | None = None,
    ) -> None:
        self.llava, self.pixels, self.texts, self.companion = llava, pixels, texts, companion
        self.grid = llava.tower.grid

    def encode(self, needs: Sequence[Need]) -> tuple[Tensor, Trace]:
        sources, values = self.llava.encode(self.pixels, needs)
        if others := [need for need in needs if need not in values]:
            texts = self.texts() if self.texts else None
            values |= {need: told(self.llava, need, sources, texts, self.companion) for need in others}
        return sources, Trace(values, self.grid, len(sources))

    def project(self, features: Float[Tensor, "image token width"]) -> Float[Tensor, "image token dim"]:
        return self.llava.project(features)

    def reduced(self, reduction: Reduction, keep: int) -> tuple[Float[Tensor, "image token dim"], Compression]:
        return self.llava.reduced(self.pixels, reduction, keep)


class GivenPictures(Pictures):
    """Images given as tokens behind the projector, whose tower nobody can ask any more.

    Raises:
        ValueError: They are not as many as the tower has patches.
    """

    def __init__(self, llava: Llava, tokens: Float[Tensor, "image patch dim"]) -> None:
        self.llava, self.tokens, self.grid = llava, tokens, llava.tower.grid
        if tokens.shape[1] != self.grid.patches:
            raise ValueError(
                f"mm_encoder_outputs holds {tokens.shape[1]} tokens per image, expected all {self.grid.patches} patches"
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
        return self.tokens, Trace(values, self.grid, len(self.tokens))

    def project(self, features: Float[Tensor, "image token width"]) -> Float[Tensor, "image token dim"]:
        return features

    def reduced(self, reduction: Reduction, keep: int) -> tuple[Float[Tensor, "image token dim"], Compression]:
        raise UnsupportedNeed(f"{reduction} works inside the vision tower: give pixel_values, not mm_encoder_outputs")


def told(llava: Llava, need: Need, sources: Tensor, texts: Texts | None, companion: Companion | None) -> Tensor:
    """The answer to a need that pictures alone cannot give.

    Raises:
        UnsupportedNeed: What would be needed for it is not there; the message says what.
    """
    patches = sources[:, : llava.tower.grid.patches]
    match need:
        case AlignedPatches() if companion:
            return companion.patches(patches)
        case AlignedText() if companion and texts and texts.spelled is not None:
            return companion.texts(texts.spelled, need.truncated)
        case AlignedPatches() | AlignedText():
            raise UnsupportedNeed(
                f"{need}: a LLaVA checkpoint has no text encoder that shares a space with its vision tower. Load the "
                "model by foveate.models.load.load(..., companion='openai/clip-vit-large-patch14-336') with the CLIP "
                "that its tower came from, and attach to what that returns"
            )
        case QuestionEmbeddings() if texts:
            table = llava.inner.get_input_embeddings()
            words = [table(torch.tensor(ids, dtype=torch.long, device=sources.device)) for ids in texts.questions]
            return pad_sequence(words, batch_first=True)
        case ResponseRows() if texts:
            if any(list(prompt).count(llava.image_token) != llava.tower.grid.patches for prompt in texts.prompts):
                raise UnsupportedNeed(f"{need}: it is known for prompts with one image each")
            everything = torch.arange(llava.tower.grid.patches, device=sources.device).expand(len(sources), -1)
            trace = Trace({}, llava.tower.grid, len(sources))
            decision = Decision(torch.zeros_like(patches[..., 0]), Compression(everything))
            return response_rows(llava, texts.prompts, Compressed(llava.project(patches), decision, trace), need)
    raise UnsupportedNeed(f"{need}: {type(llava.model).__name__} cannot answer it from what it was given")
