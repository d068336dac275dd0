"""Distinct salient tokens of frames, and trees of similar tokens over time.

Source: arXiv 2602.08024 (FlashVID).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.transfer import on_device
from foveate.functional.clips import at_least
from foveate.functional.clustering import peaks_of
from foveate.functional.mixing import Tokens

_SCALE = 1e6  # of the attention, by the authors
_NEIGHBOURS = 7  # of the densities


def distinct(
    clip: Float[Tensor, "frame patch dim"], weights: Float[Tensor, "frame patch"], count: int, repeat: bool
) -> Bool[Tensor, "frame patch"]:
    """Returns the mask of patches of each frame that are greedily chosen as most distant from those already chosen.

    The distance of patch j from patch i is (1 - cosine) times the weight of j. The first choice is the patch whose
    second smallest distance is the greatest.

    Args:
        clip: Features.
        weights: The weights.
        count: Number of choices in each frame.
        repeat: Whether a patch may be chosen again, so that fewer are chosen, as if all other distances are negative.
    """
    unit, patches = F.normalize(clip, dim=2), clip.shape[1]
    distance = (1 - unit @ unit.mT) * weights[:, None] * _SCALE
    chosen = torch.zeros_like(weights, dtype=torch.bool)
    nearest = distance.kthvalue(min(2, patches), dim=1).values
    for number in range(count):
        best = (nearest if repeat else nearest.masked_fill(chosen, -torch.inf)).argmax(1, keepdim=True)
        away = distance.gather(1, best[..., None].expand(-1, -1, patches))[:, 0]
        nearest = away if number == 0 else torch.minimum(nearest, away)
        chosen.scatter_(1, best, True)
    return chosen


def parents(
    clip: Float[Tensor, "frame patch dim"], free: Bool[Tensor, "frame patch"], threshold: float, most: int
) -> Int[Tensor, " point"]:
    """Returns for each token the most similar free token of the frame before, or -1 for a token that is not merged.

    Args:
        clip: Features of the frames of a segment.
        free: The tokens that may be merged.
        threshold: Tokens that are more similar are merged.
        most: Greatest number of merged tokens; if there are more, the threshold is the similarity of the token of this
            rank.
    """
    frames, patches = free.shape
    found = torch.full((frames, patches), -1, device=clip.device)
    if frames == 1:
        return found.flatten()
    unit = F.normalize(clip, dim=2)
    similarity = unit[1:] @ unit[:-1].mT
    similarity = similarity.masked_fill(~(free[1:, :, None] & free[:-1, None]), -1)
    best = similarity.max(2)
    last = best.values.flatten().topk(min(max(1, most), best.values.numel())).values[-1]
    too_many = (best.values > threshold).sum() > most
    merged = best.values > torch.where(too_many, last, threshold)
    before = torch.arange(frames - 1, device=clip.device)[:, None] * patches
    found[1:] = torch.where(merged, best.indices + before, -1)
    return found.flatten()


def trees(
    parent: Int[Tensor, " point"], frames: int, as_published: bool
) -> tuple[Int[Tensor, " point"], Float[Tensor, " point"]]:
    """Returns the root of each token, and the weight of each token in the mean of its tree.

    Args:
        parent: The parent of each token, one frame earlier; -1 for roots.
        frames: Number of frames.
        as_published: Whether the sum of a tree is divided by one plus the number of the root's own children, as in the
            authors' code, so that features grow along chains.
    """
    root, merged = torch.arange(len(parent), device=parent.device), parent >= 0
    for points, above in list(zip(root.chunk(frames), parent.chunk(frames), strict=True))[1:]:
        points.copy_(torch.where(above >= 0, root[above.clamp(min=0)], points))
    counted = parent.clamp(min=0) if as_published else root
    size = torch.ones_like(root).index_add_(0, counted, merged.long())
    return root, 1 / size[root].double()


def root_clusters(
    points: Float[Tensor, "point dim"],
    root: Int[Tensor, " point"],
    weight: Float[Tensor, " point"],
    roots: Bool[Tensor, "frame patch"],
    share: float,
) -> Tokens:
    """Returns clusters of the roots of each frame around density peaks, the means of their trees.

    Args:
        points: Features of all tokens of a segment.
        root: The root of each.
        weight: The weight of each in the mean of its tree.
        roots: The roots that are clustered, on the CPU; all of them are tokens if the share is at least 1.
        share: Number of clusters per root, rounded up in each frame.
    """
    values = torch.zeros_like(points).index_add_(0, root, weight[:, None] * points)
    owner, found = torch.full_like(root, -1), [root[:0]]
    for frame in roots.flatten().nonzero()[:, 0].split(roots.sum(1).tolist()):
        frame = on_device(frame, root.device)
        if share >= 1:
            owner[frame] = frame
            found.append(frame)
        elif count := at_least(len(frame) * share):
            peaks, group = peaks_of(values[frame], count, min(_NEIGHBOURS, count))
            owner[frame] = frame[peaks[group]]
            found.append(frame[peaks].sort().values)
    size = torch.zeros_like(root).index_add_(0, owner.clamp(min=0), (owner >= 0).long())
    centres, of = torch.cat(found), owner[root]
    return centres, (of == centres[:, None]) * (weight / size[of.clamp(min=0)].clamp(min=1)).float()
