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
    """Whatever reads a trace says what it will read."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """What is read from the trace; nothing, unless said otherwise."""
        return ()


class Scorer(Plugin):
    """Says how much each patch matters."""

    @abstractmethod
    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        """Higher means keep."""


class Selector(Plugin):
    """Turns scores into a choice of patches.

    `needs_keep` says that it knows no number of patches of its own, so that without a budget nothing would go.
    """

    needs_keep: ClassVar[bool] = False

    @abstractmethod
    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        """Kept patches, in raster order unless the selector is known for another.

        A score of -inf means that there is nothing to keep. Equal scores go to the lower index. Images that keep fewer
        patches than the others end in `PADDING`.
        """

    def expected(self, keep: int, left: int | float, patches: int) -> int | float:
        """How many of the `left` tokens that there were `patches` of stay, on average where it depends on the image."""
        return min(keep, left)


class Merger(Plugin):
    """Says what becomes of the patches that were not kept."""

    @abstractmethod
    def merge(
        self,
        features: Float[Tensor, "batch source dim"],
        kept: Int[Tensor, "batch kept"],
        scores: Float[Tensor, "batch patch"],
        trace: Trace,
    ) -> Compression:
        """How each token is made of sources: the patches and, in a tower that has one, [CLS] behind them.

        Tokens come in the order of `kept`; what else is made stands where the method puts it.
        """

    def reserved(self, keep: int) -> int:
        """How many tokens of a budget this merger makes itself, so that the selector is given fewer."""
        return 0

    def extra(self, dropped: int) -> int:
        """How many tokens it makes on top of the budget when so many patches are dropped."""
        return 0


class ImageBatch(ABC):
    """A batch of images of one arrangement as a model sees them; what a compressor works with."""

    arrangement: Arrangement

    @abstractmethod
    def encode(self, needs: Sequence[Need]) -> tuple[Float[Tensor, "image source dim"], Trace]:
        """Sources (patches before the projector, then [CLS] if there is one) and the answers to the needs.

        Raises:
            UnsupportedNeed: A need cannot be answered here.
        """

    @abstractmethod
    def project(self, features: Float[Tensor, "image token width"]) -> Float[Tensor, "image token dim"]:
        """The projector, token by token."""

    @abstractmethod
    def reduced(self, reduction: "Reduction", keep: int) -> tuple[Float[Tensor, "image token dim"], Compression]:
        """Features before the projector when the tower itself drops or merges tokens between its blocks."""


class Cut(Plugin):
    """A cut inside the language model: before block `layer`, some visual tokens go.

    Attributes:
        layer: 0-based, negative from the end; block 0 has nothing before it.
        repack: Number the remaining tokens consecutively; else each keeps the position it had.
    """

    layer: int

    @property
    @abstractmethod
    def repack(self) -> bool: ...

    @abstractmethod
    def cut(self, states: Float[Tensor, "batch patch dim"], trace: Trace) -> Decision:
        """What remains of the visual tokens.

        Args:
            states: Of the visual tokens of each prompt that are still there.
            trace: On the axis of those tokens.
        """

    @abstractmethod
    def planned(self, blocks: tuple[float, ...], patches: int) -> tuple[float, ...]:
        """What this cut makes of the visual tokens that are expected at each block without it."""


@dataclass(frozen=True, repr=False)
class AroundCut(Cut):
    """A cut that does something around another one, and is otherwise like it."""

    inner: Cut

    def __repr__(self) -> str:
        return repr(self.inner)

    @property
    def layer(self) -> int:  # type: ignore[override] (a field of the others, here that of what it wraps)
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
    """Leaves fewer tokens inside the vision tower, block by block.

    `needs_cls` says that it works in towers with [CLS] only, `before_mlp` that it acts between a block's attention and
    its MLP and not on its output, `proportional` that attention counts a token as often as it stands for others.
    """

    needs_cls: ClassVar[bool] = False
    before_mlp: ClassVar[bool] = False
    proportional: ClassVar[bool] = False

    @abstractmethod
    def reduce(self, block: Block, state: Tensor | None) -> tuple[Compression, Tensor | None]:
        """How the remaining tokens are made of the block's, [CLS] first as it was, and what the next call is given.

        `state` is None in the first block. After the feature layer exactly `keep` patches remain.
        """
