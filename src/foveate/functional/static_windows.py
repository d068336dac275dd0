"""Tokens of windows of frames, in which patches are static or dynamic."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.transfer import on_device, on_host
from foveate.functional.clips import whole
from foveate.functional.clustering import peaks_of
from foveate.functional.mixing import Tokens, group_rows, joined, mean_rows, placed, unit_rows
from foveate.functional.segments import refined_labels, run_lengths, starts_of, static_windows

_NEIGHBOURS = 7  # of the densities
_LONGEST = 1024  # frames of a window of HoliTom
_UNCLUSTERED = 14  # tokens that PruneVid does not cluster
_SEGMENTS = 0.25  # clusters of frames of PruneVid, per frame


def merged_and_pruned(
    clip: Float[Tensor, "frame patch dim"],
    scores: Float[Tensor, "frame patch"],
    share: float,
    threshold: float,
    blend: float,
) -> Tokens:
    """Returns means over time and space of static patches, and the dynamic patches of highest score.

    Windows of frames are those of `static_windows`. The mean of a static patch over its window is merged into the
    nearest density peak of these means, which keeps the weight `blend`. Of the dynamic patches of a frame the share of
    highest score stays. Both shares are what is left of the budget when static patches are one token per window.

    Source: arXiv 2505.21334 (HoliTom).

    Args:
        clip: Features.
        scores: Scores.
        share: Budget, as a share of all patches.
        threshold: Cosine to the next frame above which a patch is static.
        blend: Weight of a density peak that others are merged into.
    """
    frames, patches = clip.shape[:2]
    (still,) = on_host(F.cosine_similarity(clip[:-1], clip[1:], dim=2) > threshold)
    windows, saved = static_windows(still, _LONGEST)
    left = min(share / ((frames * patches - saved) / (frames * patches)), 1.0)
    parts = []
    for start, length in starts_of(windows):
        gaps = still[start : start + length - 1]
        static = gaps.all(0) & (length > 1)
        index, moving = _split(static, clip.device)
        if count := round(len(index) * left):
            means = clip[start : start + length, index].mean(0)
            centres, rows = _around(*peaks_of(means, count, min(_NEIGHBOURS, count)), blend)
            rows = _over_time(rows, index, (start, length), (frames, patches))
            parts.append((index[centres] + start * patches, rows))
        for frame in range(start, start + length):
            order = scores[frame, moving].argsort(descending=True, stable=True)
            best = moving[order[: math.ceil(len(moving) * left)].sort().values] + frame * patches
            parts.append((best, unit_rows(best[None], frames * patches)[0]))
    return joined(parts)


def _split(
    static: Bool[Tensor, " patch"], device: torch.device
) -> tuple[Int[Tensor, " index"], Int[Tensor, " moving"]]:
    """Returns the static patches and the others, ascending, on a device; the mask is on the CPU."""
    return on_device(static.nonzero()[:, 0], device), on_device((~static).nonzero()[:, 0], device)


def _around(centres: Int[Tensor, " cluster"], group: Int[Tensor, " point"], blend: float) -> Tokens:
    """Returns the points that are centres, ascending, and rows of each and the mean of the others of its cluster."""
    itself = F.one_hot(centres, len(group)).double()
    others = group_rows(group[None], torch.ones_like(group[None], dtype=torch.bool), len(centres))[0].double() - itself
    weight = torch.where(others.any(1, keepdim=True), blend, 1.0)
    rows = weight * itself + (1 - weight) * mean_rows(others[None])[0]
    order = centres.argsort()
    return centres[order], rows[order]


def _over_time(
    weights: Float[Tensor, "token point"],
    index: Int[Tensor, " point"],
    window: tuple[int, int],
    shape: tuple[int, int],
) -> Float[Tensor, "token source"]:
    """Returns rows of tokens whose points are means of patches over a window.

    Args:
        weights: Weights of the points.
        index: The patch of each point.
        window: First frame and number of frames of the window.
        shape: Number of frames of the video, and of patches of a frame.
    """
    (start, length), (frames, patches) = window, shape
    places = torch.cat([index + frame * patches for frame in range(start, start + length)])
    return placed((weights / length).repeat(1, length), places, frames * patches)


def clustered_windows(clip: Float[Tensor, "frame patch dim"], share: float, threshold: float) -> Tokens:
    """Returns clusters of static patches of each window, and then of the dynamic patches of its frames.

    Windows are the runs of `refined_labels` of clusters of frames, by the mean of their patches. A patch is static if
    its mean cosine over all pairs of different frames of the window is above a threshold; its features are the mean
    over the window. More than 14 tokens are clustered around density peaks, in order of falling score of the peaks, and
    a cluster is the mean of its members.

    Source: arXiv 2412.16117 (PruneVid).

    Args:
        clip: Features.
        share: Number of clusters per token.
        threshold: The threshold.
    """
    frames, patches = clip.shape[:2]
    (label,) = on_host(peaks_of(clip.mean(1), max(1, whole(frames * _SEGMENTS)), _NEIGHBOURS)[1])
    windows = starts_of(run_lengths(refined_labels(label.tolist())))
    still = on_host(*(_static(clip[start : start + length], threshold) for start, length in windows))
    parts = []
    for (start, length), static in zip(windows, still, strict=True):
        index, moving = _split(static, clip.device)
        centres, weights = _clusters(clip[start : start + length, index].mean(0), share)
        rows = _over_time(weights, index, (start, length), (frames, patches))
        parts.append((index[centres] + start * patches, rows))
        for frame in range(start, start + length):
            centres, weights = _clusters(clip[frame, moving], share)
            rows = _over_time(weights, moving, (frame, 1), (frames, patches))
            parts.append((moving[centres] + frame * patches, rows))
    return joined(parts)


def _static(window: Float[Tensor, "frame patch dim"], threshold: float) -> Bool[Tensor, " patch"]:
    """Returns which patches have a mean cosine over all pairs of different frames above a threshold."""
    length = len(window)
    together = F.normalize(window, dim=2).sum(0).square().sum(1)
    return ((together - length) / max(1, length * (length - 1)) > threshold) & (length > 1)


def _clusters(points: Float[Tensor, "point dim"], share: float) -> Tokens:
    """Returns the centres of clusters and the rows of their means, or all points if there are few."""
    if len(points) <= _UNCLUSTERED:
        everything = torch.arange(len(points), device=points.device)
        return everything, torch.eye(len(points), dtype=points.dtype, device=points.device)
    centres, group = peaks_of(points, max(1, whole(share * len(points))), _NEIGHBOURS)
    members = group_rows(group[None], torch.ones_like(group[None], dtype=torch.bool), len(centres))
    return centres, mean_rows(members.to(points.dtype))[0]
