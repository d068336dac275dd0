"""Groups of patches: suppression of patches that resemble better ones, quotas of the groups, and the choice."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.functional.fixed_point import fixed_point
from foveate.functional.ranking import ranked
from foveate.functional.regions import by_group, rank_within


def survivors(
    similarity: Float[Tensor, "batch patch patch"],
    scores: Float[Tensor, "batch patch"],
    group: Int[Tensor, "batch patch"],
    threshold: Float[Tensor, " batch"],
) -> Bool[Tensor, "batch patch"]:
    """Returns which patches survive non-maximum suppression within their group.

    By falling score, a patch that has not been suppressed survives and suppresses all patches of its group whose
    similarity is above the threshold. Patches with a score of -inf neither survive nor suppress.

    Args:
        similarity: Similarities of all pairs.
        scores: Scores; of equal ones the lower index comes first.
        group: Number of the group of each patch.
        threshold: The threshold of each image.
    """
    place = scores.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    real = scores > -torch.inf
    beats = (place[:, :, None] < place[:, None]) & (group[:, :, None] == group[:, None])
    beats &= (similarity > threshold[:, None, None]) & real[:, :, None]
    # A patch is decided once all that beat it are, so this ends.
    return fixed_point(lambda alive: real & ~(beats & alive[:, :, None]).any(1), real)


def group_quotas(
    sizes: Int[Tensor, "batch group"], surviving: Int[Tensor, "batch group"], keep: int, total: int
) -> Int[Tensor, "batch group"]:
    """Splits a budget among groups in proportion to their numbers of survivors.

    Every group that is not empty gets one; the rest is split by differences of rounded running totals (halves to even).
    The total is exact, or the number of patches if that is less.

    Args:
        sizes: Number of patches of each group.
        surviving: Number of survivors of each group.
        keep: Number of patches to keep.
        total: Number of all tokens. At first a group has at most 5 for each started 64 of them; this grows by one
            for all groups until the limits allow `total`, beyond the survivors too.
    """
    least = sizes.clamp(max=1)
    most = torch.minimum(surviving, sizes).clamp(max=5 * -(-total // 64))
    grown = torch.arange(total + 1, device=sizes.device)[:, None, None]  # with none for any group it suffices
    allowed = torch.minimum(most + grown, sizes).sum(2)  # by the number of times that the limits grow
    times = (allowed >= sizes.sum(1).clamp(max=total)).int().argmax(0)  # of equal values the first
    most = torch.minimum(most + times[:, None], sizes)
    rest = (keep - least.sum(1, keepdim=True)).clamp(min=0)
    # The precision decides ties: shares are float32, their running totals float64 and then float32.
    share = surviving.float() / surviving.sum(1, keepdim=True).float()
    running = (share.double().cumsum(1).float() * rest).round().long()
    given = torch.minimum(running.diff(dim=1, prepend=running[:, :1] * 0) + least, most)
    order = surviving.argsort(dim=-1, descending=True, stable=True)
    room = (most - given).gather(1, order)
    missing = (keep - given.sum(1, keepdim=True)).clamp(min=0)
    added = (missing - (room.cumsum(1) - room)).clamp(min=0).minimum(room)
    return given.scatter_add(1, order, added)


def chosen_by_group(
    scores: Float[Tensor, "batch patch"],
    alive: Bool[Tensor, "batch patch"],
    group: Int[Tensor, "batch patch"],
    quota: Int[Tensor, "batch group"],
    keep: int,
) -> Int[Tensor, "batch kept"]:
    """Returns the first patches of each group, group by group: survivors by falling score, then the others.

    Args:
        scores: Scores; -inf for patches that cannot be kept.
        alive: Mask of the survivors.
        group: Number of the group of each patch.
        quota: Number of patches to keep of each group.
        keep: Number of patches to keep of all groups.
    """
    by_score = scores.argsort(dim=-1, descending=True, stable=True)
    order = by_score.gather(1, (~alive).gather(1, by_score).long().argsort(dim=-1, stable=True))
    rank = rank_within(-order.argsort(-1).double(), group)
    return ranked(by_group(group, rank, (rank < quota.gather(1, group)) & (scores > -torch.inf)), keep)
