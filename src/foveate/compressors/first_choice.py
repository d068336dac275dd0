"""One choice for several questions about an image."""

from dataclasses import dataclass

from foveate.compressors.around import AroundCompressor
from foveate.core.values import whole


@dataclass(frozen=True)
class FirstChoice(AroundCompressor):
    """A compressor whose tokens for the first of several questions about an image also serve the questions after it.

    Evaluations know which questions are about one image; the questions are still asked one by one. With `attached`, use
    a `PrefixCache` instead.

    Attributes:
        compressor: The compressor; only if it reads questions or prompts does this change anything.
        turns: Number of questions about an image, in the order of the data set, that share a choice.
    """

    turns: int

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("turns", self.turns, least=2)

    @property
    def shared_by(self) -> int:  # type: ignore[override] (a constant elsewhere)
        return self.turns
