"""What a compressor decides, and what the language model is given because of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.arrangement import Arrangement
from foveate.core.needs import Need
from foveate.core.trace import PADDING


@dataclass(frozen=True, eq=False)
class Compression:
    """Y = M X: every token is a weighted sum of sources, which are the patches and, behind them, [CLS] if there is one.

    Attributes:
        origin: The patch whose place (and position, where positions are kept) the token takes; `EXTRA` for a token
            without a place of its own; `PADDING` at the end of images with fewer tokens than the others.
        mixing: M. None means that every token is its patch, unchanged.
    """

    origin: Int[Tensor, "batch token"]
    mixing: Float[Tensor, "batch token source"] | None = None

    @property
    def real(self) -> Bool[Tensor, "batch token"]:
        """Which entries are tokens."""
        return self.origin != PADDING

    @property
    def count(self) -> Int[Tensor, " batch"]:
        """Number of tokens of each image."""
        return self.real.sum(1)

    @property
    def kept(self) -> list[Int[Tensor, " kept"]]:
        """For each image the patches whose places remain, ascending."""
        return [row[row >= 0].sort().values for row in self.origin]

    @property
    def size(self) -> Int[Tensor, "batch token"]:
        """How many sources each token stands for."""
        return self.real.long() if self.mixing is None else (self.mixing != 0).sum(-1)

    def apply(self, features: Float[Tensor, "batch source dim"]) -> Float[Tensor, "batch token dim"]:
        """M X, zero where there is no token; without mixing, tokens are their patches bit by bit."""
        if self.mixing is None:
            index = self.origin.clamp(min=0)[..., None].expand(-1, -1, features.shape[2])
            return features.gather(1, index) * self.real[..., None]
        return self.mixing.to(features.dtype) @ features[:, : self.mixing.shape[2]]


@dataclass(frozen=True, eq=False)
class Decision:
    """What was decided for a batch of images, or for the visual tokens of a batch of prompts, and by which scores."""

    scores: Float[Tensor, "batch patch"]
    compression: Compression


@dataclass(frozen=True, eq=False)
class Compressed:
    """What the language model is given of each image.

    Attributes:
        tokens: After the projector; rows without a token are zero or arbitrary.
        decision: How they came about.
        arrangements: Of each image. Where images differ in shape, what has fewer patches than others ends in padding:
            scores of NaN, and answers of 0.
        separators: Whether tokens between patches, such as those that end a row, stay in the prompt.
        carried: Answers that the language model or a cut inside it reads; set by `compressed_by`.
    """

    tokens: Float[Tensor, "image token dim"]
    decision: Decision
    arrangements: tuple[Arrangement, ...]
    separators: bool = True
    carried: Mapping[Need, Tensor] = field(default_factory=dict)

    @property
    def visible(self) -> Int[Tensor, " image"]:
        """How many tokens of each image the language model is given, separators too."""
        count = self.decision.compression.count
        stay = [len(image.separators) if self.separators else 0 for image in self.arrangements]
        return count + torch.tensor(stay, dtype=count.dtype, device=count.device)

    def chosen(self, rows: Sequence[int]) -> "Compressed":
        """Some of the images."""
        some, compression = list(rows), self.decision.compression
        mixing = None if compression.mixing is None else compression.mixing[some]
        decision = Decision(self.decision.scores[some], Compression(compression.origin[some], mixing))
        carried = {need: value[some] for need, value in self.carried.items()}
        arrangements = tuple(self.arrangements[row] for row in some)
        return Compressed(self.tokens[some], decision, arrangements, self.separators, carried)

    @classmethod
    def of(cls, tokens: Tensor, decision: Decision, arrangement: Arrangement, separators: bool = True) -> "Compressed":
        """Returns what was made of images of one arrangement."""
        return cls(tokens, decision, (arrangement,) * len(tokens), separators)


@dataclass(frozen=True, eq=False)
class Block:
    """What a `Reduction` sees of one block of the vision tower, for a batch of images.

    Attributes:
        layer: Its number.
        feature_layer: The last block that is run; its output are the features.
        keep: How many patches shall remain in the end.
        query: Of all tokens, [CLS] first if there is one.
        key: Likewise.
        value: Likewise.
        scaling: What the block multiplies query times key with.
        real: Which tokens there are; images with fewer tokens end in others.
        size: For how many of the original tokens each one stands.
        has_cls: Whether the first token is [CLS].
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
