"""Recipes of published methods that remove tokens at several places."""

from foveate.compressors import Compressor, DecoderCompressor, Pipeline, VisionCompressor
from foveate.core.budget import Number, Times
from foveate.core.layers import AtDepth, BlockAtDepth
from foveate.mergers import BasisAndNearest, Nearest
from foveate.scorers import ClsAttention, PromptAttention, ReconstructionError
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


def apet(
    keep: Number,
    layer: int = BlockAtDepth(16, of=32),
    basis: int = 10,
    ridge: float = 1e-5,
    mix: float = 1.0,
    seed: int = 0,
) -> Compressor:
    """Returns ApET: 1.5 `keep` tokens that a `basis` explains worst, with others merged; `keep` / 2 from `layer` on.

    The basis is part of the budget. Its first token is random; `seed` fixes it for each image. `ridge`, inside the
    language model, and `mix` are those of the authors' LLaVA; their Qwen2.5-VL has 0.1 and 0.5. On LLaVA-NeXT they
    compress every tile by itself, and inside the language model the first 192 visual tokens only; here all tokens
    compete at both places. Source: arXiv 2602.19870.
    """
    first, second = ReconstructionError(basis, seed=seed), ReconstructionError(basis, ridge, seed, inside=True)
    before = VisionCompressor(first, Times(keep, 1.5), merger=BasisAndNearest(basis, seed, mix))
    merger = BasisAndNearest(basis, seed, mix, order="score")
    cut = DecoderCompressor(second, Times(keep, 0.5), layer, merger=merger, positions="repacked")
    return Pipeline((before, cut))
