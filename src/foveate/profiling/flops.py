"""Multiplications of one prefill in closed form: decoder, vision tower, projector.

A matrix product of (n, a) with (a, b) takes n a b multiply-accumulates (MACs). With n tokens, hidden width d, h heads
and k key-value heads of width e, and an FFN of inner width m, a block of the decoder takes

    query and output projection    2 n d (h e)
    key and value projection       2 n d (k e)
    scores and weighted values     2 n^2 (h e)
    gate, up and down              3 n d m

which for h e = k e = d is the 4 n d^2 + 2 n^2 d + 3 n d m of the literature. The attention matrix counts in full,
although half of it is masked; norms, softmax, rotary embeddings, the embedding table and the head (d x vocabulary for
one token) do not count, nor what a method computes to choose its tokens. n differs from block to block when tokens go
inside the decoder, and every prompt has its own, so a mean over prompts is a mean of these sums and not the sum of a
mean.

A block of a vision tower takes 4 n d^2 + 2 n^2 d + 2 n d m, with 3 n d m where its FFN is gated. Where patches only see
windows of s_1, s_2, ... patches, n^2 becomes s_1^2 + s_2^2 + ...

Four conventions are in circulation, and a number says little without them: MACs or FLOPs = 2 x MACs, visual tokens only
or the whole prompt, two or three FFN matrices in the decoder, the vision tower with or without. See `Convention`.
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
    """What a number of operations counts; the default is this project's.

    Attributes:
        macs: Multiply-accumulates, not 2 x MACs.
        visual_only: As if prompts were nothing but visual tokens.
        ffn_matrices: Of the decoder: it has 3, and formulas of some papers 2.
        vision: Tower and projector too.
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
# Under the name of who counts so. The 576 visual tokens of LLaVA-1.5-7B are "3.82T" for PyramidDrop (arXiv 2410.17247)
# and would be 2.99T by the formula of FastV (arXiv 2403.06764), which calls MACs FLOPs.
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
    """Operations of a prefill.

    Args:
        visual: Visual tokens that enter each block.
        text: All other tokens of each prompt.
        decoder: The language model.
        vision_macs: Of tower and projector: `tower_macs` and `projector_macs`.
        convention: What is counted.

    Raises:
        FoveateError: The last axis of `visual` is not that of the decoder's blocks.
    """
    tokens = visual if convention.visual_only else visual + text[..., None]
    macs = decoder_macs(tokens, decoder, convention.ffn_matrices) + (vision_macs if convention.vision else 0)
    return np.asarray(macs * (1 if convention.macs else 2))


def prefill_flops(
    visual: Real[np.ndarray, "*prompt block"], text: Real[np.ndarray, "*prompt"], shape: DecoderShape
) -> Float[np.ndarray, "*prompt"]:
    """`operations` of the language model alone, 2 x MACs, visual and text tokens."""
    return operations(visual, text, shape, 0, LANGUAGE_MODEL)


def decoder_macs(
    tokens: Real[np.ndarray, "*prompt block"], shape: DecoderShape, ffn_matrices: int = 3
) -> Float[np.ndarray, "*prompt"]:
    """Multiply-accumulates of all blocks, from the tokens that enter each of them; see `operations`."""
    if tokens.shape[-1] != shape.blocks:
        raise FoveateError(f"tokens of shape {tokens.shape}: the last axis must be that of the {shape.blocks} blocks")
    n, queries, keys = tokens.astype(float), shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    linear = 2 * shape.hidden * (queries + keys) + ffn_matrices * shape.hidden * shape.intermediate
    return np.asarray((n * linear + 2 * n**2 * queries).sum(-1))


def tower_macs(shape: TowerShape, seen: Sequence[Grid]) -> int:
    """Multiply-accumulates of the vision tower, with every one of its blocks.

    Args:
        shape: Of the tower.
        seen: The patches of each of the images that it sees, such as tiles.
    """
    return sum(_image_macs(shape, grid) for grid in seen)


def projector_macs(shape: ProjectorShape, tokens: int) -> int:
    """Multiply-accumulates of a projector for so many tokens that it gives."""
    first, second, third = shape.widths
    return shape.copies * tokens * second * (first + third)


def _image_macs(shape: TowerShape, grid: Grid) -> int:
    n, d = grid.patches + shape.extra_tokens, shape.hidden
    linear = 4 * d**2 + shape.ffn_matrices * d * shape.intermediate
    rows, columns = (sum(size**2 for size in _windows(side, shape.window)) for side in (grid.rows, grid.columns))
    pairs = (shape.blocks - shape.narrow_blocks) * n**2 + shape.narrow_blocks * rows * columns
    return grid.patches * shape.patch_values * d + shape.blocks * n * linear + 2 * d * pairs


def _windows(side: int, window: int) -> list[int]:
    """The lengths into which a side is cut; the last may be shorter."""
    return [min(window, side - start) for start in range(0, side, window)] if window else [side]
