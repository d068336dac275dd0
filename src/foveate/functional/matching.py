"""Matching by similarity: nearest targets, nearest neighbours, and pairs."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def cosine(
    one: Float[Tensor, "batch token dim"], other: Float[Tensor, "batch other dim"]
) -> Float[Tensor, "batch token other"]:
    """Returns cosine similarities in float32 or float64."""
    dtype = torch.promote_types(one.dtype, torch.float32)
    return F.normalize(one.to(dtype), dim=-1) @ F.normalize(other.to(dtype), dim=-1).mT


def rows_at(
    values: Float[Tensor, "batch token dim"], index: Int[Tensor, "batch row"]
) -> Float[Tensor, "batch row dim"]:
    """Returns the rows at the indices; a negative index gives the first row, which the caller masks."""
    return values.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, values.shape[2]))


def nearest(
    features: Float[Tensor, "batch patch dim"], targets: Int[Tensor, "batch target"]
) -> Int[Tensor, "batch patch"]:
    """Returns for each patch the slot of the most similar target; negative targets are ignored."""
    similarity = cosine(features, rows_at(features, targets))
    return similarity.masked_fill(targets[:, None] < 0, -torch.inf).argmax(-1)


def neighbours(
    features: Float[Tensor, "batch patch dim"],
    tokens: Int[Tensor, "batch token"],
    real: Bool[Tensor, "batch patch"],
    count: int,
) -> Int[Tensor, "batch token neighbour"]:
    """Returns for each token the `count` most similar other patches, the most similar first."""
    similarity = cosine(rows_at(features, tokens), features).masked_fill(~real[:, None], -torch.inf)
    itself = tokens[..., None] == torch.arange(features.shape[1], device=tokens.device)
    others = similarity.masked_fill(itself, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return others[..., : min(count, features.shape[1] - 1)]


def bipartite(
    metric: Float[Tensor, "batch token dim"], merged: int, protected: bool
) -> tuple[Int[Tensor, "batch token"], Int[Tensor, "batch output"]]:
    """Merges `merged` of the tokens at even indices into the most similar tokens at odd indices.

    Args:
        metric: Vectors whose cosine is the similarity.
        merged: Number of merged tokens; at most half of the tokens without the protected one.
        protected: Whether the first token ([CLS]) is never merged.

    Returns:
        For each token its output, and for each output the token whose position it takes: first the even tokens that
        were not merged, ascending, then all odd ones.
    """
    similarity = cosine(metric[:, ::2], metric[:, 1::2])
    if protected:
        similarity[:, 0] = -torch.inf
    best = similarity.max(-1)
    order = best.values.argsort(dim=-1, descending=True, stable=True)
    leaving, staying = order[:, :merged], order[:, merged:].sort(-1).values
    odd = torch.arange(metric.shape[1] // 2, device=metric.device).expand(len(metric), -1)
    even = torch.empty_like(order).scatter_(
        1, staying, torch.arange(staying.shape[1], device=order.device).expand_as(staying)
    )
    even.scatter_(1, leaving, best.indices.gather(1, leaving) + staying.shape[1])
    group = torch.empty(metric.shape[:2], dtype=torch.long, device=metric.device)
    group[:, ::2], group[:, 1::2] = even, odd + staying.shape[1]
    return group, torch.cat([2 * staying, 2 * odd + 1], 1)
