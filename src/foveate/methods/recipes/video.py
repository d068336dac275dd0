"""Recipes of published methods for videos. An image is a video of one frame, unless a docstring says otherwise."""

from typing import Literal

from foveate.compressors import Compressor, DecoderCompressor, Pipeline, VisionCompressor
from foveate.core.budget import Keep, Number, floored
from foveate.core.layers import BlockAtDepth
from foveate.core.values import whole
from foveate.mergers import (
    Components,
    Quadtree,
    RunningMean,
    SegmentAnchors,
    SegmentTrees,
    StaticAndDynamic,
    WindowClusters,
)
from foveate.scorers import (
    Constant,
    Distinctness,
    FrameChange,
    PoolingAttention,
    PromptAttention,
    ReceivedAttention,
)
from foveate.selectors import AtLeastAFrame, ChangedInGroups, FrameShares, Nothing, TopShare


def vidcom2(keep: Number = 0.25) -> Compressor:
    """Returns VidCom2: patches unlike the means of video and frame, more of frames that differ from the others.

    Counts per frame are rounded, so their sum is near the budget. Separators keep their places; the authors put all
    newlines of a frame after its patches. Source: arXiv 2505.14454.
    """
    return VisionCompressor(Distinctness(), None, FrameShares(keep))


def evs(keep: Keep = 0.25) -> Compressor:
    """Returns EVS: the first frame, and the patches that changed most since the frame before; positions are kept.

    `keep` is 1 - q of vLLM, whose code this is; the paper compares pixels, with a threshold. At least as many patches
    stay as one frame has. The text after a video has the model's own positions; in vLLM it starts at the video's first
    position plus the grid's width. An image is refused. Source: arXiv 2510.14624.
    """
    return VisionCompressor(FrameChange(), floored(keep), AtLeastAFrame(), positions="original")


def dycoke(keep: Keep = 0.3, as_published: bool = False) -> Compressor:
    """Returns the part of DyCoke before the language model: of three in four frames, the patches that changed most.

    `keep` is 1 - K: the share of those frames' patches. The whole budget is (1 + 3 `keep`) / 4. The authors' code
    leaves the third frame of the last four whole, drops the last of an odd number of frames, and needs five:
    `as_published`. Left out is the part that acts while it decodes: from block 3 on each new token sees only the 30 %
    of the video's cached tokens that it attends to most in the block before, others at every step. They stay in the
    cache, so neither memory nor prefill is saved; a cut is made once, in the prefill, and takes tokens away for good.
    An image is refused. Source: arXiv 2411.15024.
    """
    return VisionCompressor(Constant(), floored(keep), ChangedInGroups(as_published))


_FASTVID = {
    "onevision": {},
    "llava_video": {"parallel": False},
    "qwen2_5_vl": {"parallel": False, "alike": 0.95, "threshold": 0.84},
}


def fastvid(
    keep: Number = 0.1, variant: Literal["onevision", "llava_video", "qwen2_5_vl"] = "onevision", blend: float = 0.6
) -> Compressor:
    """Returns FastVID: salient patches of each frame, and context of anchor frames that others are merged into.

    The authors' code has three algorithms, for LLaVA-OneVision, LLaVA-Video and Qwen2.5-VL. Saliency and the vectors of
    frames are those of a pooling head, or in towers of Qwen the attention of a frame's mean query and the mean of its
    tokens; elsewhere they are received attention and that mean. Positions are kept, and all separators; the authors
    drop the newlines of rows without patches. Densities have no random noise. Source: arXiv 2503.11187.
    """
    merger = SegmentAnchors(keep, blend=blend, **_FASTVID[variant])
    return VisionCompressor(PoolingAttention(), None, Nothing(), merger, merge_projected=True, positions="original")


def llava_scissor(keep: Keep | None = None, threshold: float = 0.9) -> Compressor:
    """Returns LLaVA-Scissor: means of components of similar patches of frames, and then of all frames together.

    The number of tokens follows from `threshold`; `keep` replaces it by the threshold of each video that comes nearest
    to so many tokens from below. Components are exact; the authors sample their nodes, which is the same up to about
    3,200 of them. Separators are dropped. Source: arXiv 2506.21862.
    """
    merger = Components(threshold, keep)
    return VisionCompressor(Constant(), None, Nothing(), merger, merge_projected=True, separators=False)


def sttm(
    keep: Keep | None = None,
    layer: int = BlockAtDepth(2, of=28),
    spatial: float = 0.85,
    temporal: float = 0.55,
    as_published: bool = False,
) -> Compressor:
    """Returns STTM: nodes of quadtrees that are alike inside, and in neighbouring frames; tokens go before `layer`.

    The number of tokens follows from the thresholds; `keep` moves both, for each video, until it has about so many
    tokens and not more. The authors' code compares cells at odd borders with another cell of
    the frame, and may leave groups in parts: `as_published`. Source: arXiv 2507.07990.
    """
    merger = Quadtree(spatial, temporal, keep, as_published)
    return DecoderCompressor(Constant(), None, layer, Nothing(), merger, positions="repacked")


def prunevid(
    keep: Number = 0.5, threshold: float = 0.8, alpha: float = 0.4, layer: int = BlockAtDepth(11, of=32)
) -> Compressor:
    """Returns PruneVid: clusters of static and dynamic patches, and from `layer` on the share `alpha` of each frame.

    `keep` is the authors' ratio of clusters. Inside the language model they choose among the static and the dynamic
    tokens of a window separately, by the greatest attention of any head and any token of the question, without
    positions; here by the mean over the question's tokens, and static tokens compete with the dynamic ones of the
    window's first frame. They also drop tokens from the caches of earlier blocks. Densities have no random noise.
    Source: arXiv 2412.16117.
    """
    before = VisionCompressor(Constant(), None, Nothing(), WindowClusters(keep, threshold), merge_projected=True)
    scorer = PromptAttention(whole("layer", layer) - 1, "mean", rotary=False, heads="max")
    return Pipeline((before, DecoderCompressor(scorer, None, layer, TopShare(alpha, 1, per_view=True))))


def holitom(
    keep: Number = 0.25,
    threshold: float = 0.8,
    inside: float = 0.5,
    layer: int = BlockAtDepth(18, of=28),
    deep_layer: int = -1,
) -> Compressor:
    """Returns HoliTom: static patches merged over windows, dynamic ones by received attention; fewer from `layer` on.

    `keep` is the share before the language model, in which the share `inside` then stays and the others are averaged
    into it. For `keep` = 0.1 the authors set `threshold` to 0.65. Dynamic patches are not merged, as in all scripts
    of the authors, whose code fails otherwise. All separators stay. Source: arXiv 2505.21334.
    """
    merger = StaticAndDynamic(keep, threshold)
    before = VisionCompressor(ReceivedAttention(deep_layer), None, Nothing(), merger, merge_projected=True)
    scorer, selector = PromptAttention(whole("layer", layer) - 1), TopShare(inside, 1, "nearest")
    return Pipeline((before, DecoderCompressor(scorer, None, layer, selector, RunningMean())))


def flashvid(
    keep: Number = 0.25,
    inside: float = 0.3,
    layer: int = BlockAtDepth(20, of=28),
    deep_layer: int = -1,
    as_published: bool = False,
) -> Compressor:
    """Returns FlashVID: distinct salient patches, and trees of similar patches over time; fewer from `layer` on.

    1.25 `keep` tokens enter the language model, and the share `inside` of them stays. The authors' code divides the sum
    of a tree by the number of the root's children alone, and can choose a token twice: `as_published`. They drop the
    tokens around pruned frames of Qwen3-VL. Densities have no random noise. Source: arXiv 2602.08024.
    """
    merger = SegmentTrees(keep, as_published=as_published)
    before = VisionCompressor(ReceivedAttention(deep_layer), None, Nothing(), merger, merge_projected=True)
    scorer, selector = PromptAttention(whole("layer", layer) - 1), TopShare(inside, 1, "up")
    return Pipeline((before, DecoderCompressor(scorer, None, layer, selector)))
