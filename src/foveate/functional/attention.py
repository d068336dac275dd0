"""Attention probabilities of selected query rows, without the full matrix."""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.errors import LayerError

_ROWS = 64  # computed at a time; more only cost memory
_PROBABILITIES = 2**26  # computed at a time on an accelerator, which more rows keep busy


def attention_rows(
    query: Float[Tensor, "batch head row dim"],
    key: Float[Tensor, "batch key_head key dim"],
    scaling: float,
    allowed: Bool[Tensor, "#batch #head #row key"] | None = None,
) -> Float[Tensor, "batch head row key"]:
    """Returns softmax(scaling * q k^T) for the given query rows, in float32.

    Args:
        query: Queries, rotated by their positions.
        key: Keys, which have fewer heads than the queries with grouped-query attention.
        scaling: Usually 1 / sqrt(dim).
        allowed: Mask of the keys that a row can attend to; None means all.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    query, key = query.to(exact), key.to(exact)
    batch, heads, rows, dim = query.shape
    key_heads = key.shape[1]
    grouped = query.reshape(batch, key_heads, heads // key_heads * rows, dim)
    logits = _products(grouped, key).reshape(batch, heads, rows, -1) * scaling
    if allowed is not None:
        logits = logits.masked_fill(~allowed, torch.finfo(logits.dtype).min)
    return logits.softmax(-1).float()


def _products(
    query: Float[Tensor, "batch head row dim"], key: Float[Tensor, "batch head key dim"]
) -> Float[Tensor, "batch head row key"]:
    if query.device.type != "cpu" or torch.compiler.is_exporting():  # in few kernels; the number of images may be open
        return query @ key.mT
    logits = query.new_empty(*query.shape[:3], key.shape[2])
    for image in range(query.shape[0]):  # here one product would copy the keys first, which are laid out token by token
        logits[image] = query[image] @ key[image].mT
    return logits


def mean_attention(
    query: Float[Tensor, "batch head row dim"],
    key: Float[Tensor, "batch key_head key dim"],
    scaling: float,
    weight: Float[Tensor, "batch row"],
    allowed: Bool[Tensor, "#batch row key"] | Callable[[slice], Tensor] | None = None,
    divisor: Float[Tensor, "batch row key"] | Callable[[slice], Tensor] | None = None,
) -> Float[Tensor, "batch head key"]:
    """Returns the weighted mean of `attention_rows` over query rows, computed a few rows at a time.

    Args:
        query: Queries, rotated by their positions.
        key: Keys.
        scaling: Usually 1 / sqrt(dim).
        weight: Weight of each row, with a sum above 0; a row of weight 0 may attend to anything.
        allowed: Mask of the keys that a row can attend to, or a function of the rows if the mask would be too large.
        divisor: Divisor of the probabilities before they are averaged, or a function of the rows.
    """
    total = torch.zeros(*query.shape[:2], key.shape[2], device=query.device)
    for rows, probabilities in _some_rows(query, key, scaling, allowed, divisor):
        total += (weight[:, None, rows, None] * probabilities).sum(2)
    return total / weight.sum(1)[:, None, None]


def mean_greatest_attention(
    query: Float[Tensor, "batch head row dim"],
    key: Float[Tensor, "batch key_head key dim"],
    scaling: float,
    weight: Float[Tensor, "batch row"],
    allowed: Bool[Tensor, "#batch row key"] | Callable[[slice], Tensor] | None = None,
    divisor: Float[Tensor, "batch row key"] | Callable[[slice], Tensor] | None = None,
) -> Float[Tensor, "batch 1 key"]:
    """Returns the weighted mean over query rows of the greatest head's probability, as a single head.

    Arguments are those of `mean_attention`.
    """
    total = torch.zeros(len(query), key.shape[2], device=query.device)
    for rows, probabilities in _some_rows(query, key, scaling, allowed, divisor):
        total += (weight[:, rows, None] * probabilities.amax(1)).sum(1)
    return (total / weight.sum(1)[:, None])[:, None]


def _some_rows(
    query: Tensor,
    key: Tensor,
    scaling: float,
    allowed: Tensor | Callable[[slice], Tensor] | None = None,
    divisor: Tensor | Callable[[slice], Tensor] | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """Yields some rows at a time, and their probabilities (batch, head, row, key)."""
    size = _ROWS
    if query.device.type != "cpu":
        size = max(size, _PROBABILITIES // max(1, query.shape[0] * query.shape[1] * key.shape[2]))
    for start in range(0, query.shape[2], size):
        rows = slice(start, start + size)
        visible, shares = (
            of(rows) if callable(of) else None if of is None else of[:, rows] for of in (allowed, divisor)
        )
        probabilities = attention_rows(query[:, :, rows], key, scaling, None if visible is None else visible[:, None])
        yield rows, probabilities if shares is None else probabilities / shares[:, None]


def from_others(
    query: Float[Tensor, "batch head row dim"],
    key: Float[Tensor, "batch key_head row dim"],
    scaling: float,
    first: int = 0,
) -> Float[Tensor, "batch head key"]:
    """Returns the mean attention that each token from number `first` on receives from the others of them.

    Args:
        query: Queries of all tokens.
        key: Keys of the same tokens.
        scaling: Usually 1 / sqrt(dim).
        first: Number of leading tokens whose queries do not count and which are left out of the result.
    """
    query = query[:, :, first:]
    total = torch.zeros(query.shape[:3], device=query.device)
    for rows, probabilities in _some_rows(query, key, scaling):
        total += probabilities.sum(2)[:, :, first:]
        total[:, :, rows] -= probabilities.diagonal(first + rows.start, dim1=2, dim2=3)
    return total / max(1, query.shape[2] - 1)


def causal(real: Bool[Tensor, "batch key"], rows: Int[Tensor, " row"]) -> Bool[Tensor, "batch row key"]:
    """Returns which keys the rows at these indices can attend to: real keys up to their own index."""
    keys = torch.arange(real.shape[1], device=real.device)
    return (keys <= rows[:, None]) & real[:, None]


def reduce_heads(
    rows: Float[Tensor, "batch layer head patch"], heads: Literal["mean", "sum", "max"] | tuple[int, ...]
) -> Float[Tensor, "batch layer patch"]:
    """Returns one row per layer: the mean, sum or maximum over heads, or the mean over the given heads.

    Raises:
        LayerError: A head does not exist.
    """
    if heads == "max":
        return rows.amax(2)
    if heads == "sum":
        return rows.sum(2)
    if heads == "mean":
        return rows.mean(2)
    count = rows.shape[2]
    missing = [head for head in heads if not -count <= head < count]
    if missing:
        raise LayerError(f"heads {missing}: a layer has {count} heads, choose 0..{count - 1}")
    return rows[:, :, list(heads)].mean(2)
