"""Distinct salient tokens of frames, and trees of similar tokens over time.

Source: arXiv 2602.08024 (FlashVID).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.functional.clips import at_least
from foveate.functional.clustering import peaks_of
from foveate.functional.mixing import Tokens

_SCALE = 1e6  # of the attention, by the authors
_NEIGHBOURS = 7  # of the densities


def distinct(
    points: Float[Tensor, "patch dim"], weights: Float[Tensor, " patch"], count: int, repeat: bool
) -> Bool[Tensor, " patch"]:
    """Returns the mask of patches that are greedily chosen as most distant from those already chosen.

    The distance of patch j from patch i is (1 - cosine) times the weight of j. The first choice is the patch whose
    second smallest distance is the greatest.

    Args:
        points: Features.
        weights: The weights.
        count: Number of choices.
        repeat: Whether a patch may be chosen again, so that fewer are chosen, as if all other distances are negative.
    """
    unit = F.normalize(points, dim=1)
    distance = (1 - unit @ unit.T) * weights * _SCALE
    chosen = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    nearest = distance.kthvalue(min(2, len(points)), dim=0).values
    for number in range(count):
        best = nearest.argmax() if repeat else nearest.masked_fill(chosen, -torch.inf).argmax()
        nearest = distance[best] if number == 0 else torch.minimum(nearest, distance[best])
        chosen[best] = True
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
    unit = F.normalize(clip, dim=2)
    similarity = unit[1:] @ unit[:-1].mT
    similarity = similarity.masked_fill(~(free[1:, :, None] & free[:-1, None]), -1)
    best = similarity.max(2)
    merged = best.values > threshold
    if int(merged.sum()) > most:
        merged = best.values > best.values.flatten().topk(max(1, most)).values[-1]
    before = torch.arange(frames - 1, device=clip.device)[:, None] * patches
    found = torch.full((frames, patches), -1, device=clip.device)
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
    root = torch.arange(len(parent), device=parent.device)
    for points in root.clone().chunk(frames)[1:]:
        above = parent[points]
        root[points] = torch.where(above >= 0, root[above.clamp(min=0)], points)
    counted = parent[parent >= 0] if as_published else root[parent >= 0]
    size = 1 + counted.bincount(minlength=len(parent))
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
        roots: The roots that are clustered; all of them are tokens if the share is at least 1.
        share: Number of clusters per root, rounded up in each frame.
    """
    values = torch.zeros_like(points).index_add_(0, root, weight[:, None] * points)
    owner = torch.full_like(root, -1)
    for frame in roots.flatten().nonzero()[:, 0].split(roots.sum(1).tolist()):
        if share >= 1:
            owner[frame] = frame
        elif count := at_least(len(frame) * share):
            centres, group = peaks_of(values[frame], count, min(_NEIGHBOURS, count))
            owner[frame] = frame[centres[group]]
    size = owner[owner >= 0].bincount(minlength=len(owner))
    centres, of = owner.unique(), owner[root]
    centres = centres[centres >= 0]
    return centres, (of == centres[:, None]) * (weight / size[of.clamp(min=0)].clamp(min=1)).float()
