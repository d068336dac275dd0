"""Patches that stand still merged over time and space, others chosen by score."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.budget import Number, share_of
from foveate.core.compression import Compression
from foveate.core.contracts import Merger
from foveate.core.trace import Trace
from foveate.core.values import Share
from foveate.functional.clips import frames_of
from foveate.functional.mixing import stacked
from foveate.functional.static_windows import merged_and_pruned


@dataclass(frozen=True)
class StaticAndDynamic(Merger):
    """Merger of a video by windows in which patches stand still, in the order of `merged_and_pruned`.

    A token of static patches stands in the first frame of its window. The choice of the selector is not read. An image
    has dynamic patches only.

    Source: arXiv 2505.21334 (HoliTom, before the language model).

    Attributes:
        keep: The budget: a share of the patches, or a count. Counts of frames are rounded up.
        threshold: Cosine to the next frame above which a patch is static.
        blend: Weight of a static token that others are merged into.
    """

    makes_all: ClassVar[bool] = True
    keep: Number
    threshold: float = 0.8
    blend: Share = 0.6

    def merge(
        self,
        features: Float[Tensor, "batch source dim"],
        kept: Int[Tensor, "batch kept"],
        scores: Float[Tensor, "batch patch"],
        trace: Trace,
        budget: int,
    ) -> Compression:
        share, rows = share_of(self.keep, trace.patches), frames_of(scores[..., None], trace)[..., 0]
        clips = zip(frames_of(features, trace), rows, strict=True)
        return stacked([merged_and_pruned(*one, share, self.threshold, self.blend) for one in clips])

    def extra(self, dropped: int) -> int:
        return max(1, round(share_of(self.keep, dropped) * dropped))
