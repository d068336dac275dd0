"""Salient tokens of all frames, and tokens of a segment's anchor frames that its other tokens are merged into."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.budget import Number, share_of
from foveate.core.compression import Compression
from foveate.core.contracts import Merger
from foveate.core.needs import FrameVectors, Need
from foveate.core.trace import Trace
from foveate.core.transfer import on_host
from foveate.core.values import Count, Share
from foveate.functional.anchored import chosen_tokens, parallel_counts, segment_tokens, split_counts
from foveate.functional.clips import frames_of, whole
from foveate.functional.mixing import Tokens, joined, shifted, stacked
from foveate.functional.segments import segments, starts_of


@dataclass(frozen=True)
class SegmentAnchors(Merger):
    """Merger of a video into salient tokens, by score, and context tokens, around density peaks of anchor frames.

    Segments are cut where the vectors of neighbouring frames are dissimilar. Anchor frames are the last of a segment
    and every `step`-th before it. Each anchor frame merges the tokens of the segment that are not salient into its
    context tokens, so a token is merged once per anchor frame. The choice of the selector is not read.

    Source: arXiv 2503.11187 (FastVID; three variants of one name in the authors' code).

    Attributes:
        keep: The budget: a share of the patches, or a count; it is rounded down in each frame.
        parallel: Whether every frame has the same budget, and context tokens are also merged into themselves, as for
            LLaVA-OneVision; otherwise a segment has one budget, as for LLaVA-Video and Qwen2.5-VL.
        alike: Frames of a segment whose next frame is at least so similar have no tokens, as for Qwen2.5-VL (0.95);
            None gives tokens to all.
        threshold: Similarity of frames below which a segment ends.
        least: Smallest number of segments, as far as there are frames.
        context: Share of context tokens.
        step: Distance of anchor frames.
        blend: Least weight of a context token that others are merged into.
    """

    makes_all: ClassVar[bool] = True
    keep: Number
    parallel: bool = True
    alike: float | None = None
    threshold: float = 0.9
    least: Count = 8
    context: Share = 0.4
    step: Count = 4
    blend: Share = 0.6

    @property
    def needs(self) -> tuple[Need, ...]:
        return (FrameVectors(),)

    def merge(
        self,
        features: Float[Tensor, "batch source dim"],
        kept: Int[Tensor, "batch kept"],
        scores: Float[Tensor, "batch patch"],
        trace: Trace,
        budget: int,
    ) -> Compression:
        clips, vectors = frames_of(features, trace), trace[FrameVectors()].double().to(features.device)
        rows = frames_of(scores[..., None], trace)[..., 0]
        share = share_of(self.keep, trace.patches)
        return stacked([self._tokens(*one, share) for one in zip(clips, rows, vectors, strict=True)])

    def _tokens(
        self,
        clip: Float[Tensor, "frame patch dim"],
        scores: Float[Tensor, "frame patch"],
        vectors: Float[Tensor, "frame width"],
        share: float,
    ) -> Tokens:
        patches = clip.shape[1]
        (similarity,) = on_host(F.cosine_similarity(vectors[:-1], vectors[1:], dim=1))
        found = starts_of(segments(similarity, self.threshold, self.least))
        counts = []
        for start, length in found:
            budget = whole(patches * share)
            if self.parallel:
                counts += parallel_counts(length, budget, self.context, self.step)
            else:
                gaps = similarity[start : start + length - 1].tolist()
                valid = [f for f in range(length) if f == length - 1 or self.alike is None or gaps[f] < self.alike]
                counts += split_counts(valid, length, budget, self.context, self.step, patches)
        salient, context = on_host(*chosen_tokens(clip, scores, counts))
        parts = []
        for start, length in found:
            of = slice(start, start + length)
            one = segment_tokens(clip[of], salient[of], context[of], self.blend, self.parallel)
            parts.append(shifted(one, start * patches, clip.shape[0] * patches))
        return joined(parts)

    def extra(self, dropped: int) -> int:
        return max(1, whole(share_of(self.keep, dropped) * dropped))
