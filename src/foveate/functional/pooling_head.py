"""Attention that stands for a whole image: that of a pooling head, and that of the mean query."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def pooled_by_head(
    features: Float[Tensor, "image patch dim"],
    probe: Float[Tensor, "1 1 dim"],
    attention: nn.MultiheadAttention,
    norm: nn.LayerNorm,
    mlp: nn.Module,
) -> tuple[Float[Tensor, "image dim"], Float[Tensor, "image head patch"]]:
    """Returns the output of a pooling head for each image, and the softmax rows of its query.

    Args:
        features: Output of the tower after its last norm.
        probe: The learned query.
        attention: The head's attention.
        norm: The head's norm.
        mlp: The head's MLP.
    """
    read, rows = attention(probe.expand(len(features), -1, -1), features, features, average_attn_weights=False)
    return (read + mlp(norm(read)))[:, 0], rows[:, :, 0]


def mean_query_rows(
    query: Float[Tensor, "frame token head dim"], key: Float[Tensor, "frame token head dim"], merged: int
) -> Float[Tensor, "frame head patch"]:
    """Returns softmax rows of the mean query of each frame over the mean keys of the tokens that a patch merges.

    Source: arXiv 2503.11187 (FastVID, in the last layer of Qwen2.5-VL's tower).

    Args:
        query: Queries after the rotation, in the order in which tokens are merged.
        key: Keys in the same order.
        merged: Number of consecutive tokens that become one patch.
    """
    means = key.unflatten(1, (-1, merged)).mean(2)
    return (torch.einsum("fhd,fphd->fhp", query.mean(1), means) / query.shape[3] ** 0.5).softmax(2)
