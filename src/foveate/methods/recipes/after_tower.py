"""Recipes of published methods that remove tokens between the vision tower and the language model."""

from typing import Literal

from foveate.compressors import Compressor, VisionCompressor
from foveate.core.budget import Keep, floored, plain_keep
from foveate.core.layers import AtDepth, LayersFrom
from foveate.core.values import whole
from foveate.mergers import Contextual, Drop, DroppedMean, TextCentres, WeightedNeighbours, WithCls, ZeroFill
from foveate.scorers import (
    ClsAttention,
    ClsEnsemble,
    Constant,
    Hybrid,
    ProjectorSensitivity,
    PropagatedNorm,
    ReceivedAttention,
    TextSimilarity,
    WideClsAttention,
)
from foveate.selectors import (
    Anchors,
    ChunkQuota,
    Determinantal,
    FacilityLocation,
    ImportantDiverse,
    LogDeterminant,
    MarginalRelevance,
    MaxCoverage,
    MaxMin,
    Outliers,
    OutliersAndStride,
    PrincipalGroups,
    TileShares,
    TopK,
    TopKPerView,
    WeightedMaxMin,
)


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
    return VisionCompressor(WideClsAttention(-1), floored(keep), selector, WeightedNeighbours())


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
    return VisionCompressor(scorer, floored(keep), selector, DroppedMean())


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


def otprune(keep: Keep, gamma: float = 0.01) -> Compressor:
    """Returns OTPrune: greedy log-determinant of second-order similarity. Source: arXiv 2602.20205."""
    return VisionCompressor(Constant(), keep, LogDeterminant(gamma))


def mmtok(keep: Keep) -> Compressor:
    """Returns MMTok: coverage of the question's tokens and of all patches. Source: arXiv 2508.18264."""
    return VisionCompressor(Constant(), keep, MaxCoverage())


def mmr(keep: Keep, weight: float = 1.0, clamped: bool = False, at_once: int = 1, deep_layer: int = -2) -> Compressor:
    """Returns MMR: [CLS] attention minus `weight` times the largest similarity to a kept patch; positions are kept.

    This is IDPruner's selection with its default lambda of 0.5, `weight` = (1 - lambda) / lambda; its importance is a
    trained scorer, in whose place stands [CLS] attention. `weight=0.3, clamped=True` is UniAttn's. Source: the code at
    github.com/Tencent/AngelSlim and github.com/XiangbinPeng/UniAttn.
    """
    selector = MarginalRelevance(weight, clamped, at_once)
    return VisionCompressor(ClsAttention(deep_layer), keep, selector, positions="original")


def zoo_prune(keep: Keep, directions: int = 64, step: float = 0.01, seed: int = 0) -> Compressor:
    """Returns ZOO-Prune: the projector's sensitivity to `directions` of length `step`, times the distance to kept ones.

    The authors draw other directions for every image, without a seed. On LLaVA-NeXT they choose in each tile:
    `zoo_prune+per_tile`. Source: arXiv 2509.24837.
    """
    return VisionCompressor(ProjectorSensitivity(directions, step, seed), floored(keep), WeightedMaxMin())


def prunesid(keep: Keep, seed: int | None = None, deep_layer: int = -2, cls: bool = True) -> Compressor:
    """Returns PruneSID: [CLS], and patches of each principal group by its attention, `keep` in all, group by group.

    Without `seed` features are decomposed exactly; with one, at random as by the authors, who set none. `cls=False` is
    for models without [CLS]. The authors compress every tile of LLaVA-NeXT alone (`prunesid+per_tile`), and then write
    features in the order of groups to places in raster order, which is a fault and is left out. The paper's rate that
    follows an image's information is not in their code. Source: arXiv 2603.09480.
    """
    selector, merger = PrincipalGroups(seed, int(cls)), WithCls() if cls else Drop()
    return VisionCompressor(ClsAttention(deep_layer, "sum"), keep, selector, merger)


def prunesid_qwen(keep: Keep, seed: int | None = None) -> Compressor:
    """Returns PruneSID for Qwen2-VL: patches of each principal group of the projected features, by their loadings.

    No attention is read, and positions are kept. The authors' T is the share T / 576 of an image's patches, but at
    least 16 patches. Source: arXiv 2603.09480.
    """
    return VisionCompressor(Constant(), keep, PrincipalGroups(seed, merged=True), positions="original")


def hired(
    keep: Keep, alpha: float = 0.5, early_layer: int = 0, deep_layer: int = -2, as_published: bool = True
) -> Compressor:
    """Returns HiRED: [CLS] attention, with budgets for the whole image and its tiles by attention of an early layer.

    Without tiles this is FasterVLM. A tile's share is that of a run of raster order, as in the authors' code, or of the
    area that it shows, as in the paper (`as_published=False`). Separators are left out. The authors transpose grids
    that are not square, so that unpadding removes most tokens of tiles and leaves padding; this is not reproduced,
    because padding has no tokens here. Source: arXiv 2408.10945.
    """
    selector, scorer = TileShares(alpha, early_layer, as_published), ClsAttention(deep_layer, "sum")
    return VisionCompressor(scorer, floored(keep), selector, separators=False)


def visiontrim(keep: Keep, share: float = 0.25, deep_layer: int = -2) -> Compressor:
    """Returns VisionTrim: patches by attention of [CLS] and of each other, and a `share` of gathered tokens.

    The rest of the patches gathers around those that the question names, `keep` tokens in all; the authors' 64 is
    48 + 16. Their code has no part in the language model, which the paper describes. Source: arXiv 2601.22674.
    """
    received = ReceivedAttention(deep_layer, others=True)
    scorer = Hybrid((ClsAttention(deep_layer), received), normalise="unit")
    return VisionCompressor(scorer, keep, merger=TextCentres(share))


def gprune(keep: Keep) -> Compressor:
    """Returns G-Prune: lengths of features, passed on along the graph of similar patches; positions are kept.

    A fraction is rounded down as in the authors' code; each view of an image has its share. Source: arXiv 2501.02268.
    """
    return VisionCompressor(PropagatedNorm(), floored(keep), TopKPerView(), positions="original")
