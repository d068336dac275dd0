"""Recipes of published methods that remove tokens between the vision tower and the language model."""

from typing import Literal

from foveate.compressors import Compressor, VisionCompressor
from foveate.core.budget import Keep, floored, plain_keep
from foveate.core.layers import AtDepth, LayersFrom
from foveate.core.values import whole
from foveate.mergers import Contextual, DroppedMean, WeightedNeighbours, ZeroFill
from foveate.scorers import (
    ClsAttention,
    ClsEnsemble,
    Constant,
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
    MaxCoverage,
    MaxMin,
    Outliers,
    OutliersAndStride,
    TopK,
    TopKPerView,
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


def gprune(keep: Keep) -> Compressor:
    """Returns G-Prune: lengths of features, passed on along the graph of similar patches; positions are kept.

    A fraction is rounded down as in the authors' code; each view of an image has its share. Source: arXiv 2501.02268.
    """
    return VisionCompressor(PropagatedNorm(), floored(keep), TopKPerView(), positions="original")
