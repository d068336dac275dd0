"""Batches of images of different shapes: each shape is compressed by itself, and shorter results are padded."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.core.arrangement import Arrangement
from foveate.core.compression import Compressed, Compression, Decision
from foveate.core.contracts import ImageBatch
from foveate.core.needs import Need
from foveate.core.trace import EXTRA, PADDING
from foveate.core.transfer import on_device
from foveate.functional.mixing import unit_rows


def group_by_shape(arrangements: Sequence[Arrangement]) -> list[list[int]]:
    """Returns the indices of the images of each arrangement."""
    groups: dict[Arrangement, list[int]] = {}
    for row, arrangement in enumerate(arrangements):
        groups.setdefault(arrangement, []).append(row)
    return list(groups.values())


def in_groups(
    compress: Callable[[ImageBatch], Compressed],
    groups: Sequence[Sequence[int]],
    images: Callable[[list[int]], ImageBatch],
) -> Compressed:
    """Compresses images of several arrangements, group by group.

    Args:
        compress: Compresses images of one arrangement.
        groups: Indices of the images of each group; see `group_by_shape`.
        images: Returns the images of a group.
    """
    parts: list[Compressed] = []
    for rows in groups:
        parts.append(compress(images(list(rows))))
    if len(parts) == 1:
        return parts[0]
    rows = [row for group in groups for row in group]
    places = torch.tensor(rows).argsort()
    decision = concatenated([part.decision for part in parts], rows)
    tokens = padded([part.tokens for part in parts], (-2,), 0)
    tokens = tokens[on_device(places, tokens.device)]
    values = {}
    for need in parts[0].carried:
        axes = () if need.patch_axis is None else (need.patch_axis,)
        values[need] = padded([part.carried[need] for part in parts], axes, 0)
        values[need] = values[need][on_device(places, values[need].device)]
    every = [arrangement for part in parts for arrangement in part.arrangements]
    return Compressed(tokens, decision, tuple(every[i] for i in places.tolist()), parts[0].separators, values)


def concatenated(decisions: Sequence[Decision], rows: Sequence[int]) -> Decision:
    """Returns one decision about all rows, padded to the longest.

    Args:
        decisions: Decisions about parts of the batch.
        rows: The row of the batch that each row of the concatenated decisions belongs to.
    """
    compressions = [decision.compression for decision in decisions]
    scores = padded([decision.scores for decision in decisions], (-1,), torch.nan)
    origin = padded([compression.origin for compression in compressions], (-1,), PADDING)
    order = on_device(torch.tensor(rows).argsort(), origin.device)
    scores, origin = scores[order], origin[order]
    if all(compression.mixing is None for compression in compressions):
        return Decision(scores, Compression(origin))
    sources = scores.shape[1]
    mixing = [c.mixing if c.mixing is not None else unit_rows(c.origin, sources) for c in compressions]
    return Decision(scores, Compression(origin, padded(mixing, (-2, -1), 0.0)[order]))


def padded(parts: Sequence[Tensor], axes: Sequence[int], fill: float | int) -> Tensor:
    """Concatenates along the first axis, with `fill` up to the longest on the given axes, which are negative."""
    longest = [max(part.shape[axis] for part in parts) if axis in axes else None for axis in range(-1, -4, -1)]
    stacks = []
    for part in parts:
        missing = [0 if size is None else size - part.shape[-1 - i] for i, size in enumerate(longest[: part.ndim])]
        stacks.append(F.pad(part, [width for after in missing for width in (0, after)], value=fill))
    return torch.cat(stacks)


def carried(need: Need, value: Tensor, compression: Compression) -> Tensor:
    """Returns the answer to a need for the tokens of a compression; an extra token gets the mean of its sources."""
    if need.patch_axis is None:
        return value
    value = value.movedim(need.patch_axis, -1)
    origin = compression.origin
    middle = [1] * (value.ndim - 2)
    shape = (*value.shape[:-1], origin.shape[1])
    kept = value.gather(-1, origin.clamp(min=0).reshape(len(origin), *middle, -1).expand(shape))
    if compression.mixing is not None:
        mixing = compression.mixing[..., : value.shape[-1]]  # [CLS] is no patch
        share = mixing / mixing.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        mean = torch.einsum("b...p,btp->b...t", value, share.to(value.dtype))
        kept = torch.where((origin == EXTRA).reshape(len(origin), *middle, -1), mean, kept)
    return kept.movedim(-1, need.patch_axis)


def in_order(compression: Compression) -> Compression:
    """Sorts tokens: those of patches in raster order, then extra ones, then padding."""
    origin = compression.origin
    last = torch.iinfo(origin.dtype).max
    order = torch.where(origin >= 0, origin, last - (origin == EXTRA).long()).argsort(dim=1, stable=True)
    mixing = compression.mixing
    if mixing is not None:
        mixing = mixing.gather(1, order[..., None].expand(-1, -1, mixing.shape[2]))
    return Compression(origin.gather(1, order), mixing)
