"""Multiplications of one prefill in closed form: decoder, vision tower, projector.

A matrix product of (n, a) with (a, b) takes n a b multiply-accumulates (MACs). With n tokens, hidden width d, h heads
and k key-value heads of width e, and an FFN of inner width m, a block of the decoder takes

    query and output projection    2 n d (h e)
    key and value projection       2 n d (k e)
    scores and weighted values     2 n^2 (h e)
    gate, up and down              3 n d m

which for h e = k e = d is the 4 n d^2 + 2 n^2 d + 3 n d m of the literature. The attention matrix counts in full,
although half of it is masked. Norms, softmax, rotary embeddings, the embedding table, the head (d x vocabulary for one
token) and the scoring of patches do not count. n differs between blocks when tokens are dropped inside the decoder, and
between prompts, so a mean over prompts is a mean of these sums and not the sum of a mean.

A block of a vision tower takes 4 n d^2 + 2 n^2 d + 2 n d m, with 3 n d m if its FFN is gated. If patches attend only to
windows of s_1, s_2, ... patches, n^2 becomes s_1^2 + s_2^2 + ...

Numbers are comparable only under the same conventions: MACs or FLOPs = 2 x MACs, visual tokens only or the whole
prompt, two or three FFN matrices in the decoder, with or without the vision tower. See `Convention`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Real

from foveate.core.arrangement import Grid
from foveate.core.errors import FoveateError
from foveate.profiling.shapes import DecoderShape, ProjectorShape, TowerShape


@dataclass(frozen=True)
class Convention:
    """The rules by which operations are counted; the default is this project's.

    Attributes:
        macs: Whether to count multiply-accumulates instead of 2 x MACs.
        visual_only: Whether to count only the visual tokens of a prompt.
        ffn_matrices: Number of matrices in the decoder's FFN: it has 3, but the formulas of some papers 2.
        vision: Whether to count tower and projector.
    """

    macs: bool = False
    visual_only: bool = False
    ffn_matrices: Literal[2, 3] = 3
    vision: bool = True

    def __str__(self) -> str:
        tokens = "visual tokens" if self.visual_only else "all tokens"
        matrices = f"{self.ffn_matrices} FFN matrices"
        return f"{'MACs' if self.macs else '2 x MACs'}, {tokens}, {matrices}, {'with' if self.vision else 'no'} vision"


OURS = Convention()
LANGUAGE_MODEL = Convention(vision=False)
# By the paper that uses each. The 576 visual tokens of LLaVA-1.5-7B take "3.82T" in PyramidDrop (arXiv 2410.17247) and
# 2.99T by the formula of FastV (arXiv 2403.06764), which calls MACs FLOPs.
CONVENTIONS = {
    "foveate": OURS,
    "language model": LANGUAGE_MODEL,
    "PyramidDrop": Convention(macs=True, visual_only=True, vision=False),
    "FastV": Convention(macs=True, visual_only=True, ffn_matrices=2, vision=False),
}


def operations(
    visual: Real[np.ndarray, "*prompt block"],
    text: Real[np.ndarray, "*prompt"],
    decoder: DecoderShape,
    vision_macs: int | float | Real[np.ndarray, "*prompt"],
    convention: Convention = OURS,
) -> Float[np.ndarray, "*prompt"]:
    """Returns the operations of a prefill.

    Args:
        visual: Number of visual tokens that enter each block.
        text: Number of all other tokens of each prompt.
        decoder: Sizes of the language model.
        vision_macs: MACs of tower and projector: the sum of `tower_macs` and `projector_macs`.
        convention: The rules by which operations are counted.

    Raises:
        FoveateError: The last axis of `visual` does not have the length of the decoder's blocks.
    """
    tokens = visual if convention.visual_only else visual + text[..., None]
    macs = decoder_macs(tokens, decoder, convention.ffn_matrices) + (vision_macs if convention.vision else 0)
    return np.asarray(macs * (1 if convention.macs else 2))


def prefill_flops(
    visual: Real[np.ndarray, "*prompt block"], text: Real[np.ndarray, "*prompt"], shape: DecoderShape
) -> Float[np.ndarray, "*prompt"]:
    """Returns the operations of the language model alone: 2 x MACs, visual and text tokens."""
    return operations(visual, text, shape, 0, LANGUAGE_MODEL)


def decoder_macs(
    tokens: Real[np.ndarray, "*prompt block"], shape: DecoderShape, ffn_matrices: int = 3
) -> Float[np.ndarray, "*prompt"]:
    """Returns the multiply-accumulates of all blocks, from the number of tokens that enter each; see `operations`."""
    if tokens.shape[-1] != shape.blocks:
        raise FoveateError(f"tokens of shape {tokens.shape}: expected one number for each of the {shape.blocks} blocks")
    n, queries, keys = tokens.astype(float), shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    mixed = ffn_matrices * shape.intermediate + shape.experts
    dense = np.arange(shape.blocks) < shape.dense_blocks
    ffn = np.where(dense, ffn_matrices * shape.dense_intermediate, mixed)
    linear = shape.hidden * (2 * (queries + keys) + ffn)
    return np.asarray((n * linear + 2 * n**2 * queries).sum(-1))


def tower_macs(shape: TowerShape, grids: Sequence[Grid]) -> int:
    """Returns the multiply-accumulates of the vision tower, all blocks included.

    Args:
        shape: Sizes of the tower.
        grids: The grid of patches of each input of the tower, such as a tile.
    """
    return sum(_image_macs(shape, grid) for grid in grids)


def projector_macs(shape: ProjectorShape, tokens: int) -> int:
    """Returns the multiply-accumulates of a projector for `tokens` output tokens."""
    first, second, third = shape.widths
    return shape.copies * tokens * second * (first + third)


def _image_macs(shape: TowerShape, grid: Grid) -> int:
    n, d = grid.patches + shape.extra_tokens, shape.hidden
    linear = 4 * d**2 + shape.ffn_matrices * d * shape.intermediate
    rows, columns = (sum(size**2 for size in _windows(side, shape.window)) for side in (grid.rows, grid.columns))
    pairs = (shape.blocks - shape.windowed_blocks) * n**2 + shape.windowed_blocks * rows * columns
    return grid.patches * shape.patch_values * d + shape.blocks * n * linear + 2 * d * pairs


def _windows(side: int, window: int) -> list[int]:
    """Returns the lengths of the windows along a side; the last may be shorter."""
    return [min(window, side - start) for start in range(0, side, window)] if window else [side]
