"""Distinct salient tokens of all frames, and trees of others that stay alike over time."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.budget import Number, share_of
from foveate.core.compression import Compression
from foveate.core.contracts import Merger
from foveate.core.trace import Trace
from foveate.core.transfer import on_device, on_host
from foveate.core.values import Count, Positive, Share
from foveate.functional.clips import at_least, frames_of
from foveate.functional.mixing import Tokens, joined, shifted, stacked, unit_rows
from foveate.functional.segments import segments, starts_of
from foveate.functional.temporal_trees import distinct, parents, root_clusters, trees


@dataclass(frozen=True)
class SegmentTrees(Merger):
    """Merger of a video into distinct salient tokens, and clusters of trees of the others.

    Segments are cut where the means of neighbouring frames are dissimilar. In every frame the tokens are chosen that
    are most distant from each other, weighted by score and by how much they resemble the means of the segment's frames.
    Each other token is merged into the most similar other token of the frame before, if they are similar enough; then
    the roots of these trees are clustered in each frame. Tokens are in raster order. The choice of the selector is not
    read. An image is a segment of one frame.

    Source: arXiv 2602.08024 (FlashVID, before the language model).

    Attributes:
        keep: The budget: a share of the patches, or a count. Counts of frames are rounded up.
        by_segment: Whether resemblance to the segment's means is a weight (attn_div_v2 of the authors).
        threshold: Cosine to the frame before above which a token is merged into it.
        cut: Similarity of frames below which a segment ends.
        least: Smallest number of segments, as far as there are frames.
        expansion: Factor of the budget.
        salient: Share of the salient tokens.
        as_published: Whether, as in the authors' code, the sum of a tree is divided by one plus the number of the
            root's own children; a token can be chosen again, so that fewer are chosen; and the only frame of a segment
            is clustered with the salient tokens, so that one token can appear twice.
    """

    makes_all: ClassVar[bool] = True
    keep: Number
    by_segment: bool = True
    threshold: float = 0.8
    cut: float = 0.9
    least: Count = 8
    expansion: Positive = 1.25
    salient: Share = 0.7
    as_published: bool = False

    def merge(
        self,
        features: Float[Tensor, "batch source dim"],
        kept: Int[Tensor, "batch kept"],
        scores: Float[Tensor, "batch patch"],
        trace: Trace,
        budget: int,
    ) -> Compression:
        clips, rows = frames_of(features, trace), frames_of(scores[..., None], trace)[..., 0]
        count = min(clips.shape[2], at_least(clips.shape[2] * share_of(self.keep, trace.patches) * self.expansion))
        return stacked([self._tokens(*one, count) for one in zip(clips, rows, strict=True)])

    def _tokens(
        self, clip: Float[Tensor, "frame patch dim"], scores: Float[Tensor, "frame patch"], count: int
    ) -> Tokens:
        frame, patches = clip.mean(1), clip.shape[1]
        similarity = F.cosine_similarity(frame[:-1], frame[1:], dim=1)
        lengths = segments(similarity, self.cut, self.least)
        found = [slice(start, start + length) for start, length in starts_of(lengths)]
        weights = scores
        if self.by_segment:
            weights = torch.cat([scores[of] * (clip[of] @ frame[of].mean(0)) for of in found])
        chosen = distinct(clip, weights, at_least(self.salient * count), self.as_published and self.by_segment)
        above = [parents(clip[of], ~chosen[of], self.threshold, len(clip[of]) * (patches - count)) for of in found]
        salient, *roots = on_host(chosen, *(parent < 0 for parent in above))
        parts = []
        for of, parent, own in zip(found, above, roots, strict=True):
            one = self._segment(clip[of], parent, salient[of], own.view_as(salient[of]), count)
            parts.append(shifted(one, of.start * patches, clip.shape[0] * patches))
        return joined(parts)

    def _segment(
        self,
        clip: Float[Tensor, "frame patch dim"],
        parent: Int[Tensor, " point"],
        chosen: Bool[Tensor, "frame patch"],
        roots: Bool[Tensor, "frame patch"],
        count: int,
    ) -> Tokens:
        """Returns the tokens of a segment; its masks of salient tokens and of roots are on the CPU."""
        frames, device = len(clip), clip.device
        root, weight = trees(parent, frames, self.as_published)
        twice = self.as_published and frames == 1
        roots = roots & (twice | ~chosen)
        share = (count - at_least(self.salient * count)) * frames / max(1, int(roots.sum()))
        centres, rows = root_clusters(clip.flatten(0, 1), root, weight, roots, share)
        first = on_device(chosen.flatten().nonzero()[:, 0], device)
        origin, rows = joined([(first, unit_rows(first[None], len(parent))[0]), (centres, rows)])
        order = origin.argsort(stable=True)
        return origin[order], rows[order]

    def extra(self, dropped: int) -> int:
        return min(dropped, at_least(share_of(self.keep, dropped) * dropped * self.expansion))
