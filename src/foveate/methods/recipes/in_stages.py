"""Recipes of published methods that remove tokens at several places."""

from foveate.compressors import Compressor, DecoderCompressor, Pipeline, VisionCompressor
from foveate.core.budget import Number, Times
from foveate.core.layers import AtDepth, BlockAtDepth
from foveate.mergers import Nearest
from foveate.scorers import ClsAttention, PromptAttention
from foveate.selectors import LocalAndGlobal


def vscan(
    keep: Number, local_layer: int = AtDepth(5, of=24), layer: int = BlockAtDepth(16, of=32), deep_layer: int = -2
) -> Compressor:
    """Returns VScan: 1.5 `keep` patches, local and global, with others merged; half of `keep` from block `layer` on.

    Source: arXiv 2505.22654.
    """
    scorer, selector = ClsAttention(deep_layer), LocalAndGlobal(local_layer)
    before = VisionCompressor(scorer, Times(keep, 1.5), selector, Nearest(), merge_projected=True)
    return Pipeline((before, DecoderCompressor(PromptAttention(layer), Times(keep, 0.5), layer, positions="repacked")))
