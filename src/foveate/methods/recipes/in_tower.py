"""Recipes of published methods that remove tokens inside the vision tower."""

from foveate.compressors import Compressor, TowerCompressor
from foveate.core.budget import Keep
from foveate.core.layers import AtDepth
from foveate.reductions import Bipartite, FilterAndMerge, FilterAndMergeAsPublished, InformationFlow


def flowcut(keep: Keep) -> Compressor:
    """Returns FlowCut: patches dropped between the tower's layers. Source: arXiv 2505.19536."""
    return TowerCompressor(InformationFlow(), keep)


def tome(keep: Keep) -> Compressor:
    """Returns ToMe: patches merged in the tower's layers, equally many in each. Source: arXiv 2210.09461."""
    return TowerCompressor(Bipartite(), keep)


def ficoco_v(
    keep: Keep, start_layer: int = AtDepth(12, of=24), as_published: bool = False, first_image: bool = False
) -> Compressor:
    """Returns FiCoCo-V: redundant patches merged into those they attend to, equally many per layer from `start_layer`.

    The authors set the number per layer, 42 for 114 of 576. Their code differs from their paper in what is merged into
    what, what is kept, and by a buffer that outlives an image: `as_published` has this behaviour, for images that come
    after several others or, with `first_image`, that are the first of a process. Source: arXiv 2411.17686.
    """
    if as_published:
        return TowerCompressor(FilterAndMergeAsPublished(start_layer, first_image), keep)
    return TowerCompressor(FilterAndMerge(start_layer), keep)
