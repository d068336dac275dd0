"""Multiplications of one prefill in closed form, for LLaVA-like models: decoder, vision tower, projector.

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

Four conventions are in circulation: MACs or FLOPs = 2 x MACs, visual tokens only or the whole prompt, two or three FFN
matrices, the vision tower with or without. Here three matrices count and the parts stand apart:

    prefill_flops    2 x MACs, visual and text tokens: what this project reports.
    visual_macs      MACs, visual tokens only: "3.82T" for the 576 tokens of LLaVA-1.5-7B (arXiv 2410.17247).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Real

from foveate.core.errors import FoveateError


@dataclass(frozen=True)
class DecoderShape:
    """A LLaMA-like decoder: gated FFN of three matrices, query groups that share keys and values.

    Attributes:
        blocks: Number of blocks.
        hidden: Width of a token.
        intermediate: Inner width of the FFN.
        heads: Query heads.
        kv_heads: Key-value heads.
        head_dim: Width of a head.
    """

    blocks: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "DecoderShape":
        """From the fields of a decoder's `config.json`."""
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        return cls(
            config["num_hidden_layers"],
            hidden,
            config["intermediate_size"],
            heads,
            config.get("num_key_value_heads") or heads,
            config.get("head_dim") or hidden // heads,
        )


@dataclass(frozen=True)
class TowerShape:
    """A ViT: plain FFN of two matrices, patches cut out by a convolution without overlap.

    Attributes:
        blocks: Number of blocks that run.
        hidden: Width of a token.
        intermediate: Inner width of the FFN.
        patches: Patches of an image.
        patch_values: Numbers in one patch: 3 x side x side.
        extra_tokens: Tokens that are no patches: 1 for [CLS].
    """

    blocks: int
    hidden: int
    intermediate: int
    patches: int
    patch_values: int
    extra_tokens: int = 1


def prefill_flops(
    visual: Real[np.ndarray, "*prompt block"], text: Real[np.ndarray, "*prompt"], shape: DecoderShape
) -> Float[np.ndarray, "*prompt"]:
    """Floating-point operations (2 x MACs) of the decoder for whole prompts.

    Args:
        visual: Visual tokens that enter each block.
        text: All other tokens of each prompt.
        shape: Of the decoder.

    Raises:
        FoveateError: The last axis of `visual` is not that of the decoder's blocks.
    """
    return np.asarray(2 * decoder_macs(visual + text[..., None], shape))


def visual_macs(visual: Real[np.ndarray, "*prompt block"], shape: DecoderShape) -> Float[np.ndarray, "*prompt"]:
    """Multiply-accumulates of the decoder as if prompts were nothing but visual tokens; see `prefill_flops`."""
    return decoder_macs(visual, shape)


def decoder_macs(tokens: Real[np.ndarray, "*prompt block"], shape: DecoderShape) -> Float[np.ndarray, "*prompt"]:
    """Multiply-accumulates of all blocks, from the tokens that enter each of them; see `prefill_flops`."""
    if tokens.shape[-1] != shape.blocks:
        raise FoveateError(f"tokens of shape {tokens.shape}: the last axis must be that of the {shape.blocks} blocks")
    n, queries, keys = tokens.astype(float), shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    linear = 2 * shape.hidden * (queries + keys) + 3 * shape.hidden * shape.intermediate
    return np.asarray((n * linear + 2 * n**2 * queries).sum(-1))


def tower_macs(shape: TowerShape) -> int:
    """Multiply-accumulates of the vision tower for one image: n = patches + extra tokens in every block.

    Embedding patches `patch_values` d; a block 4 n d^2 + 2 n^2 d + 2 n d m.
    """
    n, d, m = shape.patches + shape.extra_tokens, shape.hidden, shape.intermediate
    return shape.patches * shape.patch_values * d + shape.blocks * (4 * n * d**2 + 2 * n**2 * d + 2 * n * d * m)


def projector_macs(tokens: int, width: int, hidden: int) -> int:
    """Multiply-accumulates of a projector of two layers, from the tower's width to the decoder's."""
    return tokens * (width * hidden + hidden**2)
