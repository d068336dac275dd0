"""Recipes of published methods and controls: functions from a budget to a compressor. `METHODS` holds them by name.

`keep` is the budget as the method's authors define it; see `foveate.core.token_account` for what it costs. Default
layers are those of the authors, `AtDepth` in a vision tower of 24 layers and `BlockAtDepth` in a language model of 32
blocks; `foveate.methods.fitting` scales them to other models.
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
    """Returns no compression; `keep` is ignored."""
    return Identity()


def blind(keep: Keep = 1.0) -> Compressor:
    """Returns the control without an image; `keep` is ignored."""
    return Blind()


def random(keep: Keep, seed: int = 0) -> Compressor:
    """Returns the control with random patches, fixed per image and seed."""
    return VisionCompressor(Random(seed), keep)


def uniform(keep: Keep) -> Compressor:
    """Returns the control with an even grid of patches."""
    return VisionCompressor(Uniform(), keep)


def pool(keep: Keep) -> Compressor:
    """Returns the control with average pooling of the patches to a grid of about `keep` tokens."""
    return Pool(keep)


def downsample(keep: Keep) -> Compressor:
    """Returns the control with the image at a lower resolution of about `keep` tokens."""
    return Downsample(keep)


def saturation(keep: Keep) -> Compressor:
    """Returns the control with the most saturated patches."""
    return VisionCompressor(Saturation(), keep)


def contrast(keep: Keep) -> Compressor:
    """Returns the control with the patches of highest contrast."""
    return VisionCompressor(Contrast(), keep)


def edges(keep: Keep) -> Compressor:
    """Returns the control with the patches of strongest edges."""
    return VisionCompressor(Edges(), keep)


def evidence(keep: Keep) -> Compressor:
    """Returns the oracle that keeps the patches with the question's evidence; annotated data only."""
    return VisionCompressor(Evidence(), keep)


def response_attention(keep: Keep, blocks: tuple[int, ...] = ()) -> Compressor:
    """Returns the oracle that keeps the patches the answer attends to in some blocks; empty means all."""
    return VisionCompressor(ResponseAttention(blocks), keep)


def vtc_cls(keep: Keep, start_layer: int = AtDepth(16, of=24)) -> Compressor:
    """Returns VTC-CLS: [CLS] attention, summed from `start_layer` to the layer that writes the features.

    The default layer is that of the authors' scripts. Source: arXiv 2412.05819.
    """
    return VisionCompressor(ClsEnsemble(LayersFrom(start_layer)), keep)


def fastervlm(keep: Keep, deep_layer: int = -2) -> Compressor:
    """Returns FasterVLM: [CLS] attention of LLaVA-1.5's feature layer. Source: arXiv 2412.01818v1."""
    return VisionCompressor(ClsAttention(deep_layer), keep)


def vispruner(keep: Keep, important_ratio: float = 0.5, deep_layer: int = -2) -> Compressor:
    """Returns VisPruner: a share by [CLS] attention, the rest diverse. Source: arXiv 2412.01818, later than v1."""
    return VisionCompressor(ClsAttention(deep_layer), keep, ImportantDiverse(important_ratio))


def visionzip(keep: Keep, share: float = 5 / 32, deep_layer: int = -2, cls: bool = True) -> Compressor:
    """Returns VisionZip: [CLS], patches by its attention, and a `share` of merged tokens, `keep` in all.

    The authors' 64 is 54 + 10, where 54 counts [CLS]. `cls=False` is for models without [CLS]. Source: arXiv
    2412.04467.
    """
    return VisionCompressor(ClsAttention(deep_layer, "sum"), keep, merger=Contextual(share, deep_layer, cls))


def prumerge(keep: Keep | None = None) -> Compressor:
    """Returns PruMerge: outliers of the last layer's [CLS] attention, merged with neighbours, and a token of the rest.

    `keep` fixes the number of patches, without the additional token. Source: arXiv 2403.15388.
    """
    selector = Outliers(order="score") if keep is None else TopK(order="score")
    return VisionCompressor(WideClsAttention(-1), _floored(keep), selector, WeightedNeighbours())


_PRUMERGE_PLUS = {64: (13, 11), 128: (40, 6), 192: (95, 3), 256: (95, 3)}  # of 576, in the VTC-CLS repository


def prumerge_plus(keep: Keep | None = None) -> Compressor:
    """Returns PruMerge+: PruMerge with evenly sampled patches in addition to the outliers.

    Without `keep` there are three times as many samples as outliers; with it, samples are three quarters of the budget.
    The counts 64, 128, 192 and 256 are those of the VTC-CLS repository for 576 patches, which for 192 keeps about 254,
    as for 256. Source: arXiv 2403.15388.
    """
    given = None if keep is None else plain_keep(keep)
    best, stride = _PRUMERGE_PLUS.get(given, (None, None)) if isinstance(given, int) else (None, None)
    sampled = None if keep is None else 0.75
    selector = OutliersAndStride(outliers=best, stride=stride, fixed_for=576, sampled=sampled)
    return VisionCompressor(WideClsAttention(-1), keep, selector, WeightedNeighbours())


def cdpruner(keep: Keep, negated: bool = True) -> Compressor:
    """Returns CDPruner: diverse patches, weighted by their dissimilarity to the question, as in the authors' code.

    `negated=False` weights by similarity. Source: arXiv 2506.10967.
    """
    return VisionCompressor(TextSimilarity(negated, normalise="minmax"), keep, Determinantal())


def divprune(keep: Keep) -> Compressor:
    """Returns DivPrune: always the patch furthest from those already kept. Source: arXiv 2503.02175."""
    return VisionCompressor(Constant(), keep, MaxMin())


def trim(keep: Keep | None = None, negated: bool = True) -> Compressor:
    """Returns TRIM: outliers of the dissimilarity to the question, and the mean of all others.

    `keep` fixes the number of patches, without the mean. The sign is that of the authors' code; `negated=False` keeps
    patches that are similar to the question. Source: arXiv 2409.10994.
    """
    selector = Outliers() if keep is None else TopK()
    scorer = TextSimilarity(negated, cosine=False, normalise="softmax", truncated=True)
    return VisionCompressor(scorer, _floored(keep), selector, DroppedMean())


def hiprune(
    keep: Keep, alpha: float = 0.1, object_layer: int = AtDepth(9, of=24, offset=1), deep_layer: int = -2
) -> Compressor:
    """Returns HiPrune: received attention of a middle layer, with neighbours, then of a deep one.

    `object_layer` counts from 1, as in the authors' code. Source: arXiv 2508.00553.
    """
    anchors = Anchors(alpha, whole("object_layer", object_layer, least=1) - 1)
    return VisionCompressor(ReceivedAttention(deep_layer), keep, anchors)


def holov(keep: Keep, chunks: int = 16, deep_layer: int = -2) -> Compressor:
    """Returns HoloV: quotas for chunks by [CLS] attention, filled up with zeros. Source: arXiv 2510.02912."""
    return VisionCompressor(ClsAttention(deep_layer), keep, ChunkQuota(chunks), ZeroFill())


def scope(
    keep: Keep, alpha: float = 1.0, combine: Literal["multi", "add"] = "multi", deep_layer: int = -2
) -> Compressor:
    """Returns SCOPE: coverage of all patches, weighted by [CLS] attention. Source: arXiv 2510.24214."""
    return VisionCompressor(ClsAttention(deep_layer, "sum"), keep, FacilityLocation(alpha, combine))


def flowcut(keep: Keep) -> Compressor:
    """Returns FlowCut: patches dropped between the tower's layers. Source: arXiv 2505.19536."""
    return TowerCompressor(InformationFlow(), keep)


def tome(keep: Keep) -> Compressor:
    """Returns ToMe: patches merged in the tower's layers, equally many in each. Source: arXiv 2210.09461."""
    return TowerCompressor(Bipartite(), keep)


def otprune(keep: Keep, gamma: float = 0.01) -> Compressor:
    """Returns OTPrune: greedy log-determinant of second-order similarity. Source: arXiv 2602.20205."""
    return VisionCompressor(Constant(), keep, LogDeterminant(gamma))


def mmtok(keep: Keep) -> Compressor:
    """Returns MMTok: coverage of the question's tokens and of all patches. Source: arXiv 2508.18264."""
    return VisionCompressor(Constant(), keep, MaxCoverage())


def vscan(
    keep: Number, local_layer: int = AtDepth(5, of=24), layer: int = BlockAtDepth(16, of=32), deep_layer: int = -2
) -> Compressor:
    """Returns VScan: 1.5 `keep` patches, local and global, with others merged; half of `keep` from block `layer` on.

    Source: arXiv 2505.22654.
    """
    scorer, selector = ClsAttention(deep_layer), LocalAndGlobal(local_layer)
    before = VisionCompressor(scorer, Times(keep, 1.5), selector, Nearest(), merge_projected=True)
    return Pipeline((before, DecoderCompressor(PromptAttention(layer), Times(keep, 0.5), layer, positions="repacked")))


def random_inside(keep: Keep, layer: int = BlockAtDepth(2, of=32), seed: int = 0) -> Compressor:
    """Returns the control with random patches, dropped at FastV's block, so that only the choice differs."""
    return DecoderCompressor(Random(seed), _floored(keep), layer)


def fastv(keep: Keep, layer: int = BlockAtDepth(2, of=32)) -> Compressor:
    """Returns FastV: attention of the last prompt token in block `layer` - 1; tokens go before block `layer`.

    A fraction is the kept share (1 - ratio of the authors), rounded down as in their code. Source: arXiv 2403.06764.
    """
    return DecoderCompressor(PromptAttention(whole("layer", layer) - 1), _floored(keep), layer)


def pyramiddrop(
    keep: Number | None = None,
    layers: tuple[int, ...] = BlockAtDepth.each(8, 16, 24, of=32),
    ratios: tuple[float, ...] = (0.5, 0.25, 0.125),
) -> Compressor:
    """Returns PyramidDrop: cuts before each of `layers`, by the last prompt token's attention in that block.

    `ratios` are shares of all patches; `keep` replaces them by equal factors from all patches down to `keep`. Positions
    are renumbered at every cut. Source: arXiv 2410.17247.
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
    """Returns SparseVLM 1.5: cuts by raters' attention after each block of `after`, with cluster means recycled.

    `keep` is the authors' name of a list of counts (192, 128, 96, 64); other numbers interpolate between the lists.
    Positions are renumbered at every cut. Ties of densities go to the lower index; the authors add noise. Source: arXiv
    2410.04417.
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
    """Returns SparseVLM+ (2.0): attention relative to that of positions alone, no recycling, positions kept.

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
    """Returns DART: tokens least similar to a few pivots, chosen by the keys of block `layer` - 1.

    `keep` is the authors' setting; 4 + 8 * (keep // 8) tokens remain. Source: arXiv 2502.11494.
    """
    return DecoderCompressor(Constant(), keep, layer, LeastAlike(whole("layer", layer) - 1))


def feather(keep: Number = 0.3, layers: tuple[int, ...] = BlockAtDepth.each(8, 16, of=32), step: int = 3) -> Compressor:
    """Returns FEATHER: attention without positions and a regular grid, then the squared share of the remaining tokens.

    Source: arXiv 2412.13180.
    """
    first, second = (PromptAttention(whole("layers", layer) - 1, rotary=False, over="patches") for layer in layers)
    cut = DecoderCompressor(first, _floored(keep), layers[0], Union((TopK(), Stride(step))))
    return Pipeline((cut, DecoderCompressor(second, None, layers[1], TopShare(keep))))


def vtw(keep: Keep | None = None, layer: int = BlockAtDepth(15, of=32)) -> Compressor:
    """Returns VTW: no visual tokens from block `layer` on; `keep` is ignored. Source: arXiv 2405.05803."""
    return DecoderCompressor(Constant(), None, layer, Nothing())


def _floored(keep: Keep | None) -> Keep | None:
    keep = None if keep is None else plain_keep(keep)
    return Floor(keep) if isinstance(keep, float) else keep


def _blocks(after: tuple[int, ...]) -> list[int]:
    return [whole("after", block) for block in after]
