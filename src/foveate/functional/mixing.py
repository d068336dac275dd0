"""Rows of the matrix M in Y = M X."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from foveate.core.compression import Compression
from foveate.core.trace import EXTRA, PADDING
from foveate.functional.matching import nearest
from foveate.functional.ranking import longest, marked


def left_over(kept: Int[Tensor, "batch kept"], scores: Float[Tensor, "batch patch"]) -> Bool[Tensor, "batch patch"]:
    """Returns which patches were dropped; a score of -inf means that there is no patch."""
    return ~marked(kept, scores.shape[1]) & (scores != -torch.inf)


def unit_rows(index: Int[Tensor, "batch token"], sources: int) -> Float[Tensor, "batch token source"]:
    """Returns rows with a one at the index of each token, or only zeros if it is negative."""
    slots = index.masked_fill(index < 0, sources)
    return F.one_hot(slots, sources + 1)[..., :sources].float()


def group_rows(
    group: Int[Tensor, "batch source"], members: Bool[Tensor, "batch source"], groups: int
) -> Float[Tensor, "batch group source"]:
    """Returns rows with ones for the members of each group; sources that are not members are in no group."""
    numbers = torch.arange(groups, device=group.device)[:, None]
    return ((group[:, None] == numbers) & members[:, None]).float()


def mean_rows(rows: Float[Tensor, "batch group source"]) -> Float[Tensor, "batch group source"]:
    """Returns the rows normalised to sum 1; rows of zeros stay the same."""
    return rows / rows.sum(-1, keepdim=True).clamp(min=1)


def nearest_mean_rows(
    features: Float[Tensor, "batch patch dim"],
    targets: Int[Tensor, "batch target"],
    members: Bool[Tensor, "batch patch"],
) -> Float[Tensor, "batch target patch"]:
    """Returns rows that are the mean of each target and of the members nearest to it by cosine.

    Args:
        features: Features that are compared.
        targets: The targets, at least one per image; negative ones are padding, and their rows are zeros.
        members: Mask of the patches that join a target.
    """
    joined = group_rows(nearest(features, targets), members, targets.shape[1])
    return mean_rows(unit_rows(targets, features.shape[1]) + joined)


def appended(
    kept: Int[Tensor, "batch kept"],
    rows: Float[Tensor, "batch kept source"],
    extra_rows: Float[Tensor, "batch extra source"],
    exists: Bool[Tensor, "batch extra"],
) -> Compression:
    """Returns the kept patches followed by the extra tokens that exist."""
    extra = torch.where(exists, EXTRA, PADDING).to(kept)
    return packed(torch.cat([kept, extra], 1), torch.cat([rows, extra_rows], 1))


def packed(origin: Int[Tensor, "batch token"], mixing: Float[Tensor, "batch token source"]) -> Compression:
    """Moves `PADDING` to the end of each image and removes columns that are padding in all images."""
    padding = origin == PADDING
    order = padding.long().argsort(dim=-1, stable=True)[:, : longest((~padding).sum(1), origin.shape[1])]
    return Compression(origin.gather(1, order), mixing.gather(1, order[..., None].expand(-1, -1, mixing.shape[2])))


Tokens = tuple[Int[Tensor, " token"], Float[Tensor, "token source"]]
"""The tokens of one image or video: their origins, and their rows of M in float32."""
_Part = tuple[Int[Tensor, " _"], Float[Tensor, "_ _"]]


def placed(
    weights: Float[Tensor, "token point"], index: Int[Tensor, " point"], sources: int
) -> Float[Tensor, "token source"]:
    """Returns float32 rows over all sources, given their weights of some of them.

    Args:
        weights: The weights.
        index: The source of each column, each at most once.
        sources: Number of sources.
    """
    rows = torch.zeros(len(weights), sources, device=index.device)
    rows[:, index] = weights.to(rows)
    return rows


def shifted(tokens: _Part, start: int, sources: int) -> Tokens:
    """Returns tokens of some consecutive patches as tokens of a whole video.

    Args:
        tokens: The tokens.
        start: Number of the first of the patches.
        sources: Number of patches of the video.
    """
    origin, rows = tokens
    index = torch.arange(start, start + rows.shape[1], device=rows.device)
    return origin + start, placed(rows, index, sources)


def joined(parts: Sequence[_Part]) -> Tokens:
    """Returns the tokens of all parts in order."""
    return torch.cat([origin for origin, _ in parts]), torch.cat([rows for _, rows in parts])


def stacked(images: Sequence[_Part]) -> Compression:
    """Returns the compression of a batch, given the tokens of each image."""
    origin = pad_sequence([origin for origin, _ in images], batch_first=True, padding_value=PADDING)
    return Compression(origin, pad_sequence([rows for _, rows in images], batch_first=True))
