"""Rows of M in Y = M X."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.compression import Compression
from foveate.core.trace import EXTRA, PADDING
from foveate.functional.ranking import marked


def left_over(kept: Int[Tensor, "batch kept"], scores: Float[Tensor, "batch patch"]) -> Bool[Tensor, "batch patch"]:
    """Which patches were not kept; a score of -inf means that there is no patch."""
    return ~marked(kept, scores.shape[1]) & (scores != -torch.inf)


def unit_rows(index: Int[Tensor, "batch token"], sources: int) -> Float[Tensor, "batch token source"]:
    """A one at the index of each token; zeros alone where it is negative."""
    slots = index.masked_fill(index < 0, sources)
    return F.one_hot(slots, sources + 1)[..., :sources].float()


def group_rows(
    group: Int[Tensor, "batch source"], members: Bool[Tensor, "batch source"], groups: int
) -> Float[Tensor, "batch group source"]:
    """Ones where a source is a member of the group; sources that are no members are in none."""
    numbers = torch.arange(groups, device=group.device)[:, None]
    return ((group[:, None] == numbers) & members[:, None]).float()


def mean_rows(rows: Float[Tensor, "batch group source"]) -> Float[Tensor, "batch group source"]:
    """Rows that sum to one; empty ones stay empty."""
    return rows / rows.sum(-1, keepdim=True).clamp(min=1)


def appended(
    kept: Int[Tensor, "batch kept"],
    rows: Float[Tensor, "batch kept source"],
    extra_rows: Float[Tensor, "batch extra source"],
    exists: Bool[Tensor, "batch extra"],
) -> Compression:
    """The kept patches and behind them the extra tokens that exist."""
    extra = torch.where(exists, EXTRA, PADDING).to(kept)
    return packed(torch.cat([kept, extra], 1), torch.cat([rows, extra_rows], 1))


def packed(origin: Int[Tensor, "batch token"], mixing: Float[Tensor, "batch token source"]) -> Compression:
    """Moves `PADDING` behind the tokens of its image and cuts off what is padding in all."""
    padding = origin == PADDING
    order = padding.long().argsort(dim=-1, stable=True)[:, : int((~padding).sum(1).max())]
    return Compression(origin.gather(1, order), mixing.gather(1, order[..., None].expand(-1, -1, mixing.shape[2])))
