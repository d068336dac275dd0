"""Attention probabilities of chosen query rows, without the full matrix."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveate.core.errors import LayerError


def attention_rows(
    query: Float[Tensor, "batch head row dim"],
    key: Float[Tensor, "batch key_head key dim"],
    scaling: float,
    allowed: Bool[Tensor, "#batch #head #row key"] | None = None,
) -> Float[Tensor, "batch head row key"]:
    """softmax(scaling * q k^T) for the given query rows, in float32.

    Args:
        query: Queries after positions were applied.
        key: Keys; with grouped-query attention fewer heads than the queries.
        scaling: Usually 1 / sqrt(dim).
        allowed: Which keys a row may see; None means all.
    """
    batch, heads, rows, dim = query.shape
    key_heads = key.shape[1]
    grouped = query.reshape(batch, key_heads, heads // key_heads * rows, dim)
    logits = (grouped @ key.transpose(-1, -2)).reshape(batch, heads, rows, -1) * scaling
    if allowed is not None:
        logits = logits.masked_fill(~allowed, torch.finfo(logits.dtype).min)
    return logits.softmax(-1, dtype=torch.float32)


def reduce_heads(
    rows: Float[Tensor, "batch layer head patch"], heads: Literal["mean", "max"] | tuple[int, ...]
) -> Float[Tensor, "batch layer patch"]:
    """One row per layer: the mean or maximum over heads, or the mean over the named heads.

    Raises:
        LayerError: A head does not exist.
    """
    if heads == "max":
        return rows.amax(2)
    if heads == "mean":
        return rows.mean(2)
    count = rows.shape[2]
    missing = [head for head in heads if not -count <= head < count]
    if missing:
        raise LayerError(f"heads {missing}: a layer has {count} heads, choose 0..{count - 1}")
    return rows[:, :, list(heads)].mean(2)
