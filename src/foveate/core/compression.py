"""Results of selectors, mergers, cuts and compressors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.arrangement import Arrangement, Grid
from foveate.core.needs import Need
from foveate.core.trace import PADDING
from foveate.core.transfer import on_device, rows_of


@dataclass(frozen=True, eq=False)
class Compression:
    """Y = M X: every token is a weighted sum of sources: the patches, then [CLS] if the tower has one.

    Attributes:
        origin: For each token, the patch whose position it takes; `EXTRA` for a token that takes no patch's position;
            `PADDING` at the end of images with fewer tokens than others.
        mixing: The matrix M; None if every token is an unchanged patch.
    """

    origin: Int[Tensor, "batch token"]
    mixing: Float[Tensor, "batch token source"] | None = None

    @property
    def real(self) -> Bool[Tensor, "batch token"]:
        """Mask of the entries that are tokens."""
        return self.origin != PADDING

    @property
    def count(self) -> Int[Tensor, " batch"]:
        """Number of tokens of each image."""
        return self.real.sum(1)

    @property
    def kept(self) -> list[Int[Tensor, " kept"]]:
        """For each image, the kept patches, ascending."""
        return [row[row >= 0].sort().values for row in self.origin]

    @property
    def size(self) -> Int[Tensor, "batch token"]:
        """Number of sources of each token."""
        return self.real.long() if self.mixing is None else (self.mixing != 0).sum(-1)

    def chosen(self, rows: Sequence[int]) -> "Compression":
        """Returns the compression of some of the images."""
        return Compression(rows_of(self.origin, rows), None if self.mixing is None else rows_of(self.mixing, rows))

    def apply(self, features: Float[Tensor, "batch source dim"]) -> Float[Tensor, "batch token dim"]:
        """Returns M X, with zeros for padding; without mixing, tokens equal their patches bit by bit."""
        if self.mixing is None:
            index = self.origin.clamp(min=0)[..., None].expand(-1, -1, features.shape[2])
            return features.gather(1, index) * self.real[..., None]
        return self.mixing.to(features.dtype) @ features[:, : self.mixing.shape[2]]


@dataclass(frozen=True, eq=False)
class Decision:
    """Scores and the compression that resulted, for a batch of images or for the visual tokens of a batch of prompts.

    Attributes:
        scores: One score per patch, a number or -inf.
        compression: The tokens that remain.
    """

    scores: Float[Tensor, "batch patch"]
    compression: Compression

    def chosen(self, rows: Sequence[int]) -> "Decision":
        """Returns the decision for some of the images or prompts."""
        return Decision(rows_of(self.scores, rows), self.compression.chosen(rows))


@dataclass(frozen=True, eq=False)
class Compressed:
    """The visual tokens of each image, as the language model receives them.

    Attributes:
        tokens: The tokens after the projector; rows of padding are zero or arbitrary.
        decision: The scores and the compression.
        arrangements: The arrangement of each image. If they differ, images with fewer patches are padded, scores with
            NaN and answers with 0.
        separators: Whether the separators stay in the prompt.
        carried: Answers that the language model or a cut inside it reads; `compressed_by` sets them.
        leaders: For each prompt, the prompt whose choices its cuts repeat, one with the same image; empty if every
            prompt has its own choices.
    """

    tokens: Float[Tensor, "image token dim"]
    decision: Decision
    arrangements: tuple[Arrangement, ...]
    separators: bool = True
    carried: Mapping[Need, Tensor] = field(default_factory=dict)
    leaders: tuple[int, ...] = ()

    @property
    def visible(self) -> Int[Tensor, " image"]:
        """Number of visual tokens of each image in the prompt, separators included."""
        count = self.decision.compression.count
        separators = [len(image.separators) if self.separators else 0 for image in self.arrangements]
        return count + on_device(torch.tensor(separators, dtype=count.dtype), count.device)

    def chosen(self, rows: Sequence[int]) -> "Compressed":
        """Returns the result for some of the images."""
        carried = {need: rows_of(value, rows) for need, value in self.carried.items()}
        arrangements = tuple(self.arrangements[row] for row in rows)
        return Compressed(
            rows_of(self.tokens, rows), self.decision.chosen(rows), arrangements, self.separators, carried
        )

    @classmethod
    def of(cls, tokens: Tensor, decision: Decision, arrangement: Arrangement, separators: bool = True) -> "Compressed":
        """Returns the result for images of one arrangement."""
        return cls(tokens, decision, (arrangement,) * len(tokens), separators)


@dataclass(frozen=True, eq=False)
class Block:
    """The state of one block of the vision tower for a batch of images, as a `Reduction` reads it.

    Attributes:
        layer: Number of the block.
        feature_layer: Number of the last block that runs; its output is the features.
        keep: Number of patches that remain after the feature layer.
        query: Queries of all tokens, [CLS] first if there is one.
        key: Keys in the same order.
        value: Values in the same order.
        scaling: Factor of the block's attention logits.
        real: Mask of the tokens; images with fewer tokens end in padding.
        size: Number of original tokens that each token stands for.
        has_cls: Whether the first token is [CLS].
        grid: Grid of the patches of an image, before any reduction.
    """

    layer: int
    feature_layer: int
    keep: int
    query: Float[Tensor, "batch head token dim"]
    key: Float[Tensor, "batch head token dim"]
    value: Float[Tensor, "batch head token dim"]
    scaling: float
    real: Bool[Tensor, "batch token"]
    size: Int[Tensor, "batch token"]
    has_cls: bool
    grid: Grid
