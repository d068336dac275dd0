"""Connected components of similar patches, within frames and then over all frames."""

from dataclasses import dataclass
from functools import cache, partial
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.budget import Keep, resolve_keep
from foveate.core.compression import Compression
from foveate.core.contracts import Merger
from foveate.core.trace import Trace
from foveate.functional.clips import frames_of
from foveate.functional.components import bisected, cosines, semantic_tokens, twice_grouped
from foveate.functional.mixing import Tokens, stacked


@dataclass(frozen=True)
class Components(Merger):
    """Merger of a video into components of similar patches; see `semantic_tokens`.

    A token takes the position of the patch with most similar ones. The choice of the selector is not read. An image is
    a video of one frame.

    Source: arXiv 2506.21862 (LLaVA-Scissor).

    Attributes:
        threshold: Cosine above which patches are connected.
        keep: Budget for which each video has a threshold of its own, about the greatest with at most so many tokens,
            found by up to 15 trials; None for the fixed threshold.
    """

    makes_all: ClassVar[bool] = True
    threshold: float = 0.9
    keep: Keep | None = None

    def merge(
        self,
        features: Float[Tensor, "batch source dim"],
        kept: Int[Tensor, "batch kept"],
        scores: Float[Tensor, "batch patch"],
        trace: Trace,
        budget: int,
    ) -> Compression:
        return stacked([self._tokens(clip) for clip in frames_of(features, trace)])

    def _tokens(self, clip: Float[Tensor, "frame patch dim"]) -> Tokens:
        grouped, threshold = cache(partial(twice_grouped, clip, cosines(clip))), self.threshold
        if self.keep is not None:
            most = resolve_keep(self.keep, clip.shape[0] * clip.shape[1])
            threshold = bisected(lambda value: len(grouped(value)[0]), most)
        return semantic_tokens(clip, *grouped(threshold))

    def extra(self, dropped: int) -> int:
        return dropped if self.keep is None else resolve_keep(self.keep, dropped)
