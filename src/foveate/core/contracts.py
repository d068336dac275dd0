"""The contracts of the plug-ins. An implementation is one file, one frozen dataclass, one formula."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.arrangement import Arrangement
from foveate.core.compression import Block, Compression, Decision
from foveate.core.needs import Need
from foveate.core.trace import Trace
from foveate.core.values import Value


class Plugin(Value, ABC):
    """Base of everything that reads a trace."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """Keys that the plug-in reads from the trace; none by default."""
        return ()


class Scorer(Plugin):
    """A formula for how much each patch matters."""

    @abstractmethod
    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        """Returns one score per patch; patches with higher scores are kept first."""


class Selector(Plugin):
    """A rule that turns scores into kept patches.

    Attributes:
        needs_keep: Whether the selector needs a budget, because it does not decide by itself how many patches to keep.
        static_count: Whether `expected` is exact: the number of kept patches depends on no score and no question.
    """

    needs_keep: ClassVar[bool] = False
    static_count: ClassVar[bool] = False

    @abstractmethod
    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        """Returns the kept patches, in raster order unless the selector documents another order.

        Patches with a score of -inf are never kept. Of equal scores the lower index is kept first. Rows that keep fewer
        patches than others end in `PADDING`.
        """

    def expected(self, keep: int, left: int | float, patches: int) -> int | float:
        """Returns how many tokens remain, on average if the number depends on the image.

        Args:
            keep: Number of patches to keep.
            left: Number of tokens that the selector chooses from.
            patches: Number of patches of the image before any compression.
        """
        return min(keep, left)


class Merger(Plugin):
    """A rule for what the dropped patches add to the kept ones.

    Attributes:
        fills_budget: Whether there are as many tokens as the budget, however many patches the selector keeps.
        makes_all: Whether the merger makes all tokens, whatever the selector keeps, and how many depends on the image.
    """

    fills_budget: ClassVar[bool] = False
    makes_all: ClassVar[bool] = False

    @abstractmethod
    def merge(
        self,
        features: Float[Tensor, "batch source dim"],
        kept: Int[Tensor, "batch kept"],
        scores: Float[Tensor, "batch patch"],
        trace: Trace,
        budget: int,
    ) -> Compression:
        """Returns how each token is made of sources: the patches, then [CLS] if the tower has one.

        Tokens of kept patches come in the order of `kept`; the merger decides where it puts additional tokens.

        Args:
            features: Features of the sources.
            kept: The kept patches.
            scores: Scores of all patches.
            trace: Answers to the merger's needs.
            budget: Number of tokens that the compressor was given, the reserved ones included.
        """

    def reserved(self, keep: int) -> int:
        """Returns how many tokens of the budget `keep` the merger makes, so that the selector keeps fewer patches."""
        return 0

    def extra(self, dropped: int) -> int:
        """Returns how many tokens the merger makes on top of the budget if `dropped` patches are dropped.

        If the merger makes all tokens, `dropped` are all that it is given, and the number is an expectation.
        """
        return 0


class ImageBatch(ABC):
    """A batch of images of one arrangement: the input of a compressor."""

    arrangement: Arrangement

    @abstractmethod
    def encode(self, needs: Sequence[Need]) -> tuple[Float[Tensor, "image source dim"], Trace]:
        """Returns the sources (patches before the projector, then [CLS] if there is one) and the answers to the needs.

        Raises:
            UnsupportedNeed: A need cannot be answered for these images.
        """

    @abstractmethod
    def project(self, features: Float[Tensor, "image token width"]) -> Float[Tensor, "image token dim"]:
        """Applies the projector to each token."""

    @abstractmethod
    def reduced(self, reduction: "Reduction", keep: int) -> tuple[Float[Tensor, "image token dim"], Compression]:
        """Returns the features before the projector after a reduction inside the tower, and how they were made."""


class AroundImages(ImageBatch):
    """A batch of images that answers needs in its own way and otherwise behaves like the batch it wraps."""

    def __init__(self, images: ImageBatch) -> None:
        self.images, self.arrangement = images, images.arrangement

    def project(self, features: Float[Tensor, "image token width"]) -> Float[Tensor, "image token dim"]:
        return self.images.project(features)

    def reduced(self, reduction: "Reduction", keep: int) -> tuple[Float[Tensor, "image token dim"], Compression]:
        return self.images.reduced(reduction, keep)


class Cut(Plugin):
    """A rule that drops visual tokens before a block of the language model.

    Attributes:
        layer: The block, 0-based, negative from the end; nothing can be dropped before block 0.
        repack: Whether the remaining tokens are numbered consecutively; otherwise they keep their positions.
    """

    layer: int

    @property
    @abstractmethod
    def repack(self) -> bool: ...

    @abstractmethod
    def cut(self, states: Float[Tensor, "batch patch dim"], trace: Trace) -> Decision:
        """Returns which visual tokens remain.

        Args:
            states: States of the visual tokens that remain in each prompt.
            trace: Answers on the axis of those tokens.
        """

    @abstractmethod
    def planned(self, blocks: tuple[float, ...], patches: int) -> tuple[float, ...]:
        """Returns the expected visual tokens at each block with this cut.

        Args:
            blocks: Expected visual tokens at each block without it.
            patches: Number of patches of the image before any compression.
        """


@dataclass(frozen=True, repr=False)
class AroundCut(Cut):
    """A cut that changes what another cut reads or returns and otherwise behaves like it."""

    inner: Cut

    def __repr__(self) -> str:
        return repr(self.inner)

    @property
    def layer(self) -> int:  # type: ignore[override] (a field elsewhere)
        return self.inner.layer

    @property
    def needs(self) -> tuple[Need, ...]:
        return self.inner.needs

    @property
    def repack(self) -> bool:
        return self.inner.repack

    def planned(self, blocks: tuple[float, ...], patches: int) -> tuple[float, ...]:
        return self.inner.planned(blocks, patches)


class Reduction(Value, ABC):
    """A rule that drops or merges tokens between the blocks of the vision tower.

    Attributes:
        needs_cls: Whether the tower must have a [CLS] token.
        before_mlp: Whether tokens go between a block's attention and its MLP instead of after the block.
        proportional: Whether attention weighs a token by the number of tokens that it stands for.
        keeps_cls: Whether [CLS] stays first and unchanged. Otherwise it is a token like the others, the first token is
            dropped after the feature layer, whichever it is, and the order of the tokens stays.
    """

    needs_cls: ClassVar[bool] = False
    before_mlp: ClassVar[bool] = False
    proportional: ClassVar[bool] = False
    keeps_cls: ClassVar[bool] = True

    @abstractmethod
    def reduce(self, block: Block, state: Tensor | None) -> tuple[Compression, Tensor | None]:
        """Returns how the remaining tokens are made of the block's tokens, and the state for the next block.

        After the feature layer exactly `keep` patches remain.

        Args:
            block: The block's tokens.
            state: What the previous call returned; None in the first block.
        """
