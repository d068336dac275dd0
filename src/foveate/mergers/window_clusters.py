"""Clusters of static and of dynamic patches of windows of similar frames."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.budget import Number, share_of
from foveate.core.compression import Compression
from foveate.core.contracts import Merger
from foveate.core.trace import Trace
from foveate.functional.clips import frames_of, whole
from foveate.functional.mixing import stacked
from foveate.functional.static_windows import clustered_windows


@dataclass(frozen=True)
class WindowClusters(Merger):
    """Merger of a video into clusters of patches, in the order of `clustered_windows`.

    A token takes the position of the peak of its cluster, in the first frame of the window if the patches are static.
    The choice of the selector is not read. An image has dynamic patches only.

    Source: arXiv 2412.16117 (PruneVid, before the language model).

    Attributes:
        keep: Number of clusters per token, after static patches are one per window; a count means its share of all
            patches.
        threshold: Mean cosine of a patch over pairs of frames above which it is static.
    """

    makes_all: ClassVar[bool] = True
    keep: Number = 0.5
    threshold: float = 0.8

    def merge(
        self,
        features: Float[Tensor, "batch source dim"],
        kept: Int[Tensor, "batch kept"],
        scores: Float[Tensor, "batch patch"],
        trace: Trace,
        budget: int,
    ) -> Compression:
        share = share_of(self.keep, trace.patches)
        return stacked([clustered_windows(clip, share, self.threshold) for clip in frames_of(features, trace)])

    def extra(self, dropped: int) -> int:
        return max(1, whole(share_of(self.keep, dropped) * dropped))
