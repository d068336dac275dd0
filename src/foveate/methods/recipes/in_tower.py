"""Recipes of published methods that remove tokens inside the vision tower."""

from foveate.compressors import Compressor, TowerCompressor
from foveate.core.budget import Keep
from foveate.reductions import Bipartite, InformationFlow


def flowcut(keep: Keep) -> Compressor:
    """Returns FlowCut: patches dropped between the tower's layers. Source: arXiv 2505.19536."""
    return TowerCompressor(InformationFlow(), keep)


def tome(keep: Keep) -> Compressor:
    """Returns ToMe: patches merged in the tower's layers, equally many in each. Source: arXiv 2210.09461."""
    return TowerCompressor(Bipartite(), keep)
