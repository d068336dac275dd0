"""The values that pass between model, scorer, selector and merger."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.errors import UnsupportedNeed
from foveate.core.needs import Need

PADDING = -1  # in lists of patches: no patch, the image has fewer
EXTRA = -2  # as origin of a token: a real token that stands at no patch's place


@dataclass(frozen=True)
class Grid:
    """Where the patches of a view lie: raster order, row by row."""

    rows: int
    columns: int

    @property
    def patches(self) -> int:
        return self.rows * self.columns


Views = tuple[Grid, ...]
"""Of an image, or of all images of a prompt: their patches are numbered view by view."""


@dataclass(frozen=True)
class Arrangement:
    """Where the patches of one image lie, and how they stand in the run of its placeholders.

    A patch is what becomes one visual token: where a model merges several of its tower's patches, all of them together.

    Attributes:
        views: One for most models; the whole picture and its enlargement, or tile by tile, for those that cut it up.
        boxes: The part of the picture that each view shows: top, left, bottom and right as shares of its sides.
        separators: Where in the run tokens stand that are no patch, such as those that end a row; ascending.
        tiles: Of each patch which of the tower's pictures shows it; empty where there is but one.
    """

    views: Views
    boxes: tuple[tuple[float, float, float, float], ...] = ((0.0, 0.0, 1.0, 1.0),)
    separators: tuple[int, ...] = ()
    tiles: tuple[int, ...] = ()

    @property
    def patches(self) -> int:
        return sum(view.patches for view in self.views)

    @property
    def length(self) -> int:
        """How many placeholders the run has."""
        return self.patches + len(self.separators)

    def trace(self, values: Mapping[Need, Tensor], batch: int) -> "Trace":
        """What was recorded of so many images of this arrangement."""
        tiles = torch.tensor(self.tiles) if self.tiles else None
        return Trace(values, self.views, batch, tiles=tiles)

    @cached_property
    def offsets(self) -> Int[Tensor, " patch"]:
        """Where in the run each patch stands."""
        with torch.inference_mode(False):  # it is remembered, and may be part of a pass with gradients later
            stands = torch.ones(self.length, dtype=torch.bool)
            stands[list(self.separators)] = False
            return stands.nonzero()[:, 0]


@dataclass(frozen=True, eq=False)
class Trace:
    """What was recorded for a batch of images: the answer to each need, under that need.

    All rows of a trace are of one shape. Before the language model the patch axis holds every patch of an image. At a
    cut inside it, it holds the visual tokens that are still there, `place` tells which patches they are, and with
    several images in a prompt the patches of the second count on from those of the first.

    Attributes:
        values: The answers.
        views: Of the images of every row.
        batch: Number of rows.
        place: Int[batch patch], where it is not simply every patch: the patch, `EXTRA` or `PADDING`.
        tiles: Int[every], of each patch of the views which of the tower's pictures shows it; None where a view is one.
    """

    values: Mapping[Need, Tensor]
    views: Views
    batch: int
    place: Int[Tensor, "batch patch"] | None = None
    tiles: Int[Tensor, " every"] | None = None

    @property
    def patches(self) -> int:
        """How many patches the images of a row have, before any compression."""
        return sum(view.patches for view in self.views)

    def __getitem__(self, need: Need) -> Tensor:
        if need not in self.values:
            raise UnsupportedNeed(
                f"{need} was not recorded; a scorer may read only what its `needs` name, and some needs only "
                f"annotated data can answer. Recorded: {', '.join(map(str, self.values)) or 'nothing'}"
            )
        return self.values[need]

    def answers(self, needs: Iterable[Need]) -> dict[Need, Tensor]:
        """Returns the answers to some of the needs."""
        return {need: self[need] for need in needs}

    def of(self, rows: Int[Tensor, " row"]) -> "Trace":
        """What was recorded of some of the rows."""
        values = {need: value[rows.to(value.device)] for need, value in self.values.items()}
        place = None if self.place is None else self.place[rows.to(self.place.device)]
        return Trace(values, self.views, len(rows), place, self.tiles)

    @property
    def places(self) -> Int[Tensor, "batch patch"]:
        """`place`, spelled out."""
        return torch.arange(self.patches).expand(self.batch, -1) if self.place is None else self.place


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
        carried: Answers to needs that a later cut inside the language model reads.
        arrangements: Of each image. Where images differ in shape, what has fewer patches than others ends in padding:
            scores of NaN, and answers of 0.
        separators: Whether tokens between patches, such as those that end a row, stay in the prompt.
    """

    tokens: Float[Tensor, "image token dim"]
    decision: Decision
    carried: Mapping[Need, Tensor]
    arrangements: tuple[Arrangement, ...]
    separators: bool = True

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
        return Compressed(self.tokens[some], decision, carried, arrangements, self.separators)

    @classmethod
    def of(
        cls,
        tokens: Tensor,
        decision: Decision,
        carried: Mapping[Need, Tensor],
        arrangement: Arrangement,
        separators: bool = True,
    ) -> "Compressed":
        """Returns what was made of images of one arrangement."""
        return cls(tokens, decision, carried, (arrangement,) * len(tokens), separators)


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
