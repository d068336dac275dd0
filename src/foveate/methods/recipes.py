"""Published methods and controls as recipes: from a budget to a compressor. `METHODS` holds all of them by name.

`keep` is the number that the method's authors give; `foveate.core.token_account` says what it amounts to. Layer numbers
are those of the authors, for vision towers of 24 layers (`start_layer`, `object_layer`, `local_layer`, `deep_layer`)
and language models of 32 blocks (`layer`, `layers`); `foveate.methods.fitting` finds their like in another model.
"""

from typing import Literal

from foveate.compressors import (
    Blind,
    Compressor,
    DecoderCompressor,
    Downsample,
    Identity,
    Pipeline,
    Pool,
    TowerCompressor,
    VisionCompressor,
)
from foveate.core.budget import Floor, Geometric, Keep, Number, Times, plain_keep
from foveate.core.errors import BudgetError
from foveate.core.layers import AtDepth, BlockAtDepth, LayersFrom
from foveate.core.values import whole
from foveate.mergers import Clusters, Contextual, DroppedMean, Nearest, WeightedNeighbours, ZeroFill
from foveate.methods.sparsevlm_counts import SPARSEVLM, SPARSEVLM_PLUS, interpolated
from foveate.reductions import Bipartite, InformationFlow
from foveate.scorers import (
    ClsAttention,
    ClsEnsemble,
    Constant,
    Contrast,
    Edges,
    Evidence,
    PromptAttention,
    Random,
    ReceivedAttention,
    ResponseAttention,
    Saturation,
    TextSimilarity,
    Uniform,
    WideClsAttention,
)
from foveate.selectors import (
    Anchors,
    ChunkQuota,
    Determinantal,
    FacilityLocation,
    ImportantDiverse,
    LeastAlike,
    LocalAndGlobal,
    LogDeterminant,
    MaxCoverage,
    MaxMin,
    Nothing,
    Outliers,
    OutliersAndStride,
    Stride,
    TopK,
    TopShare,
    Union,
)


def full(keep: Keep = 1.0) -> Compressor:
    """No compression; `keep` is ignored, so that the reference can stand in a list of methods."""
    return Identity()


def blind(keep: Keep = 1.0) -> Compressor:
    """Control: no image at all; `keep` is ignored."""
    return Blind()


def random(keep: Keep, seed: int = 0) -> Compressor:
    """Control: patches at random, fixed per image and seed."""
    return VisionCompressor(Random(seed), keep)


def uniform(keep: Keep) -> Compressor:
    """Control: patches spread evenly over the image."""
    return VisionCompressor(Uniform(), keep)


def pool(keep: Keep) -> Compressor:
    """Control: average pooling of the patch grid to the grid nearest to `keep` tokens."""
    return Pool(keep)


def downsample(keep: Keep) -> Compressor:
    """Control: the image at the lower resolution that gives about `keep` tokens, positions interpolated."""
    return Downsample(keep)


def saturation(keep: Keep) -> Compressor:
    """Control: the most colourful patches, by their pixels alone."""
    return VisionCompressor(Saturation(), keep)


def contrast(keep: Keep) -> Compressor:
    """Control: the patches whose luminance varies most, by their pixels alone."""
    return VisionCompressor(Contrast(), keep)


def edges(keep: Keep) -> Compressor:
    """Control: the patches with the steepest luminance, by their pixels alone."""
    return VisionCompressor(Edges(), keep)


def evidence(keep: Keep) -> Compressor:
    """Oracle on annotated data: the patches that show what the question asks about."""
    return VisionCompressor(Evidence(), keep)


def response_attention(keep: Keep, blocks: tuple[int, ...] = ()) -> Compressor:
    """Oracle: what the uncompressed model looks at while it answers, in these blocks, or in all."""
    return VisionCompressor(ResponseAttention(blocks), keep)


def vtc_cls(keep: Keep, start_layer: int = AtDepth(16, of=24)) -> Compressor:
    """VTC-CLS: [CLS] attention summed from `start_layer` to the layer that writes the features.

    The default is that of the authors' scripts. Source: arXiv 2412.05819.
    """
    return VisionCompressor(ClsEnsemble(LayersFrom(start_layer)), keep)


def fastervlm(keep: Keep, deep_layer: int = -2) -> Compressor:
    """FasterVLM: [CLS] attention of the layer that writes the features in LLaVA-1.5. Source: arXiv 2412.01818v1."""
    return VisionCompressor(ClsAttention(deep_layer), keep)


def vispruner(keep: Keep, important_ratio: float = 0.5, deep_layer: int = -2) -> Compressor:
    """VisPruner: a share by [CLS] attention, the rest thinned to what is unlike. Source: arXiv 2412.01818, after v1."""
    return VisionCompressor(ClsAttention(deep_layer), keep, ImportantDiverse(important_ratio))


def visionzip(keep: Keep, share: float = 5 / 32, deep_layer: int = -2, cls: bool = True) -> Compressor:
    """VisionZip: [CLS] itself, patches by its attention, and a `share` of merged ones, `keep` together.

    The authors' 64 = 54 + 10, where 54 counts [CLS], which models without one leave out (`cls`). Source: arXiv
    2412.04467.
    """
    return VisionCompressor(ClsAttention(deep_layer, "sum"), keep, merger=Contextual(share, deep_layer, cls))


def prumerge(keep: Keep | None = None) -> Compressor:
    """PruMerge: outliers of the last layer's [CLS] attention, each with its neighbours added, and a token of the rest.

    `keep` fixes the number of patches, on top of which comes the one token. Source: arXiv 2403.15388.
    """
    selector = Outliers(order="score") if keep is None else TopK(order="score")
    return VisionCompressor(WideClsAttention(-1), _floored(keep), selector, WeightedNeighbours())


_PRUMERGE_PLUS = {64: (13, 11), 128: (40, 6), 192: (95, 3), 256: (95, 3)}  # of 576, in the VTC-CLS repository


def prumerge_plus(keep: Keep | None = None) -> Compressor:
    """PruMerge+: as PruMerge, with evenly sampled patches besides the outliers.

    Without `keep` the outliers decide, of which the samples are three times as many; with it, samples are three
    quarters of the budget. The counts 64, 128, 192 and 256 are those of the VTC-CLS repository for 576 patches, which
    for 192 keeps about 254, as for 256. Source: arXiv 2403.15388.
    """
    given = None if keep is None else plain_keep(keep)
    best, stride = _PRUMERGE_PLUS.get(given, (None, None)) if isinstance(given, int) else (None, None)
    sampled = None if keep is None else 0.75
    selector = OutliersAndStride(outliers=best, stride=stride, fixed_for=576, sampled=sampled)
    return VisionCompressor(WideClsAttention(-1), keep, selector, WeightedNeighbours())


def cdpruner(keep: Keep, negated: bool = True) -> Compressor:
    """CDPruner: diverse patches, weighed by how unlike the question they are.

    As in the authors' code; `negated=False` weighs by likeness. Source: arXiv 2506.10967.
    """
    return VisionCompressor(TextSimilarity(negated, normalise="minmax"), keep, Determinantal())


def divprune(keep: Keep) -> Compressor:
    """DivPrune: each next patch is the one furthest from all before. Source: arXiv 2503.02175."""
    return VisionCompressor(Constant(), keep, MaxMin())


def trim(keep: Keep | None = None, negated: bool = True) -> Compressor:
    """TRIM: outliers of the unlikeness to the question, and the mean of all others.

    `keep` fixes the number of patches, on top of which comes the mean. The sign is that of the authors' code;
    `negated=False` keeps what is like the question. Source: arXiv 2409.10994.
    """
    selector = Outliers() if keep is None else TopK()
    scorer = TextSimilarity(negated, cosine=False, normalise="softmax", truncated=True)
    return VisionCompressor(scorer, _floored(keep), selector, DroppedMean())


def hiprune(
    keep: Keep, alpha: float = 0.1, object_layer: int = AtDepth(9, of=24, offset=1), deep_layer: int = -2
) -> Compressor:
    """HiPrune: received attention of a middle layer with neighbours, then of a deep one.

    `object_layer` counts from 1, as the authors' does. Source: arXiv 2508.00553.
    """
    anchors = Anchors(alpha, whole("object_layer", object_layer, least=1) - 1)
    return VisionCompressor(ReceivedAttention(deep_layer), keep, anchors)


def holov(keep: Keep, chunks: int = 16, deep_layer: int = -2) -> Compressor:
    """HoloV: quotas for stretches of the raster by [CLS] attention, filled up with zeros. Source: arXiv 2510.02912."""
    return VisionCompressor(ClsAttention(deep_layer), keep, ChunkQuota(chunks), ZeroFill())


def scope(
    keep: Keep, alpha: float = 1.0, combine: Literal["multi", "add"] = "multi", deep_layer: int = -2
) -> Compressor:
    """SCOPE: coverage of all patches, weighed by [CLS] attention. Source: arXiv 2510.24214."""
    return VisionCompressor(ClsAttention(deep_layer, "sum"), keep, FacilityLocation(alpha, combine))


def flowcut(keep: Keep) -> Compressor:
    """FlowCut: drops patches between the tower's layers. Source: arXiv 2505.19536."""
    return TowerCompressor(InformationFlow(), keep)


def tome(keep: Keep) -> Compressor:
    """ToMe: merges patches between the tower's layers, equally many in each. Source: arXiv 2210.09461."""
    return TowerCompressor(Bipartite(), keep)


def otprune(keep: Keep, gamma: float = 0.01) -> Compressor:
    """OTPrune: greedy log-determinant of the patches' second-order similarity. Source: arXiv 2602.20205."""
    return VisionCompressor(Constant(), keep, LogDeterminant(gamma))


def mmtok(keep: Keep) -> Compressor:
    """MMTok: coverage of the question's words and of all patches. Source: arXiv 2508.18264."""
    return VisionCompressor(Constant(), keep, MaxCoverage())


def vscan(
    keep: Number, local_layer: int = AtDepth(5, of=24), layer: int = BlockAtDepth(16, of=32), deep_layer: int = -2
) -> Compressor:
    """VScan: 1.5 `keep` patches, local and global, others merged into them; half of `keep` before block `layer`.

    Source: arXiv 2505.22654.
    """
    scorer, selector = ClsAttention(deep_layer), LocalAndGlobal(local_layer)
    before = VisionCompressor(scorer, Times(keep, 1.5), selector, Nearest(), merge_projected=True)
    return Pipeline((before, DecoderCompressor(PromptAttention(layer), Times(keep, 0.5), layer, positions="repacked")))


def random_inside(keep: Keep, layer: int = BlockAtDepth(2, of=32), seed: int = 0) -> Compressor:
    """Control: patches at random, dropped where FastV drops its own, so that only what chooses them differs."""
    return DecoderCompressor(Random(seed), _floored(keep), layer)


def fastv(keep: Keep, layer: int = BlockAtDepth(2, of=32)) -> Compressor:
    """FastV: attention of the last prompt token in block `layer` - 1; tokens go before block `layer`.

    A fraction is the share kept (the authors' 1 - ratio), rounded down as they do. Source: arXiv 2403.06764.
    """
    return DecoderCompressor(PromptAttention(whole("layer", layer) - 1), _floored(keep), layer)


def pyramiddrop(
    keep: Number | None = None,
    layers: tuple[int, ...] = BlockAtDepth.each(8, 16, 24, of=32),
    ratios: tuple[float, ...] = (0.5, 0.25, 0.125),
) -> Compressor:
    """PyramidDrop: before each of `layers` the last prompt token's attention there, asked ahead, keeps less.

    `ratios` are shares of all patches; `keep` replaces them by equal factors from all patches down to `keep`. Positions
    are numbered anew at every cut. Source: arXiv 2410.17247.
    """
    if keep is None and len(layers) != len(ratios):
        raise BudgetError(f"{len(ratios)} ratios for cuts before {len(layers)} blocks: give one each")
    steps = range(1, len(layers) + 1)
    keeps = [Floor(r) for r in ratios] if keep is None else [Geometric(keep, step, len(layers)) for step in steps]
    return Pipeline(
        tuple(
            DecoderCompressor(PromptAttention(layer), budget, layer, positions="repacked")
            for layer, budget in zip(layers, keeps, strict=True)
        )
    )


_SPARSEVLM_BLOCKS = BlockAtDepth.each(2, 6, 15, of=32, after=True)


def sparsevlm(keep: Number, after: tuple[int, ...] = _SPARSEVLM_BLOCKS) -> Compressor:
    """SparseVLM 1.5: raters' attention after each block of `after`; dropped tokens are recycled as cluster means.

    `keep` is the authors' name of a list of counts (192, 128, 96, 64); other numbers interpolate between the lists.
    Positions are numbered anew at every cut; density ties go to the lower index, where the authors add noise. Source:
    arXiv 2410.04417.
    """
    counts = interpolated(SPARSEVLM, keep, len(after))
    cuts = zip(_blocks(after), counts, strict=True)
    return Pipeline(
        tuple(
            DecoderCompressor(PromptAttention(k, "raters"), n, k + 1, merger=Clusters(), positions="repacked")
            for k, n in cuts
        )
    )


def sparsevlm_plus(keep: Number, after: tuple[int, ...] = _SPARSEVLM_BLOCKS, strongest: int = 14) -> Compressor:
    """SparseVLM+ (2.0): probabilities relative to what positions alone would score, no recycling, positions kept.

    Source: arXiv 2410.04417, code of version 2.0.
    """
    cuts = zip(_blocks(after), interpolated(SPARSEVLM_PLUS, keep, len(after)), strict=True)
    return Pipeline(
        tuple(
            DecoderCompressor(PromptAttention(k, "raters", debiased=True, strongest=strongest), n, k + 1)
            for k, n in cuts
        )
    )


def dart(keep: Keep, layer: int = BlockAtDepth(2, of=32)) -> Compressor:
    """DART: tokens least like a few pivots, chosen by the keys of block `layer` - 1.

    `keep` is the authors' setting, of which 4 + 8 * (keep // 8) remain. Source: arXiv 2502.11494.
    """
    return DecoderCompressor(Constant(), keep, layer, LeastAlike(whole("layer", layer) - 1))


def feather(keep: Number = 0.3, layers: tuple[int, ...] = BlockAtDepth.each(8, 16, of=32), step: int = 3) -> Compressor:
    """FEATHER: attention without positions joined with an even grid, then the square of that share of what is left.

    Source: arXiv 2412.13180.
    """
    first, second = (PromptAttention(whole("layers", layer) - 1, rotary=False, over="patches") for layer in layers)
    cut = DecoderCompressor(first, _floored(keep), layers[0], Union((TopK(), Stride(step))))
    return Pipeline((cut, DecoderCompressor(second, None, layers[1], TopShare(keep))))


def vtw(keep: Keep | None = None, layer: int = BlockAtDepth(15, of=32)) -> Compressor:
    """VTW: no visual token from block `layer` on; `keep` is ignored. Source: arXiv 2405.05803."""
    return DecoderCompressor(Constant(), None, layer, Nothing())


def _floored(keep: Keep | None) -> Keep | None:
    keep = None if keep is None else plain_keep(keep)
    return Floor(keep) if isinstance(keep, float) else keep


def _blocks(after: tuple[int, ...]) -> list[int]:
    return [whole("after", block) for block in after]
