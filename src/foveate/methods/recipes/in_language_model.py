"""Recipes of published methods that remove tokens inside the language model."""

from foveate.compressors import Compressor, DecoderCompressor, Pipeline
from foveate.core.budget import Floor, Geometric, Keep, Number, floored
from foveate.core.errors import BudgetError
from foveate.core.layers import BlockAtDepth
from foveate.core.values import whole
from foveate.mergers import Clusters
from foveate.methods import fitprune_table
from foveate.methods.sparsevlm_counts import SPARSEVLM, SPARSEVLM_PLUS, interpolated
from foveate.scorers import Constant, CrossAndSelfAttention, PromptAttention
from foveate.selectors import LeastAlike, Nothing, Stride, TopK, TopShare, Union


def fastv(keep: Keep, layer: int = BlockAtDepth(2, of=32)) -> Compressor:
    """Returns FastV: attention of the last prompt token in block `layer` - 1; tokens go before block `layer`.

    A fraction is the kept share (1 - ratio of the authors), rounded down as in their code. Source: arXiv 2403.06764.
    """
    return DecoderCompressor(PromptAttention(whole("layer", layer) - 1), floored(keep), layer)


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
    cut = DecoderCompressor(first, floored(keep), layers[0], Union((TopK(), Stride(step))))
    return Pipeline((cut, DecoderCompressor(second, None, layers[1], TopShare(keep))))


def vtw(keep: Keep | None = None, layer: int = BlockAtDepth(15, of=32)) -> Compressor:
    """Returns VTW: no visual tokens from block `layer` on; `keep` is ignored. Source: arXiv 2405.05803."""
    return DecoderCompressor(Constant(), None, layer, Nothing())


def fitprune(keep: Number = 0.4, blocks: tuple[int, ...] = BlockAtDepth.each(1, 31, of=32)) -> Compressor:
    """Returns FitPrune: cuts before every block from the first to the last of `blocks`, by cross and self attention.

    `keep` is the share of the operations that remains (1 - reduction of the authors), and names their table of dropped
    tokens; other shares interpolate, and other depths and grids scale it. The tables are those of LLaVA-1.5-7B:
    `foveate.methods.calibration.fitted` makes one for a model and samples of your own. Source: arXiv 2409.10197.
    """
    budgets = fitprune_table.interpolated(keep, [whole("blocks", block) for block in blocks])
    cuts = (DecoderCompressor(CrossAndSelfAttention(block - 1), left, block) for block, left in budgets.items())
    return Pipeline(tuple(cuts))


def _blocks(after: tuple[int, ...]) -> list[int]:
    return [whole("after", block) for block in after]
