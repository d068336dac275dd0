"""Salient tokens of frames, and context tokens of a segment's anchor frames that others are merged into.

Source: arXiv 2503.11187 (FastVID).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.trace import PADDING
from foveate.core.transfer import on_device
from foveate.functional.clips import whole
from foveate.functional.clustering import density_peaks
from foveate.functional.mixing import Tokens, mean_rows, unit_rows

_NEIGHBOURS = 4  # of the densities


def anchors(frames: Sequence[int], step: int) -> list[int]:
    """Returns the last of some frames, and every `step`-th before it."""
    return list(frames[::-1][::step])


def parallel_counts(length: int, budget: int, share: float, step: int) -> list[tuple[int, int]]:
    """Returns the numbers of salient and of context tokens of each frame of a segment, equal budgets for all frames.

    The context tokens of all frames are shared among the anchor frames, and what does not divide evenly is lost.

    Args:
        length: Number of frames of the segment.
        budget: Number of tokens of a frame.
        share: Share of context tokens.
        step: Distance of anchor frames.
    """
    context, chosen = whole(budget * share), anchors(range(length), step)
    given = whole(context * length / len(chosen))
    return [(budget - context, given if frame in chosen else 0) for frame in range(length)]


def split_counts(
    valid: Sequence[int], length: int, budget: int, share: float, step: int, patches: int
) -> list[tuple[int, int]]:
    """Returns the numbers of salient and of context tokens of each frame of a segment, with budgets for the segment.

    Salient tokens are shared among the valid frames, context tokens among the anchor frames of these from the last on;
    the first of each get what does not divide evenly. A frame has context tokens for half of its patches at most, and
    what exceeds the frame is lost.

    Args:
        valid: The frames that have tokens, ascending.
        length: Number of frames of the segment.
        budget: Number of tokens of a frame, on average.
        share: Share of context tokens.
        step: Distance of anchor frames, in valid frames.
        patches: Number of patches of a frame.
    """
    total = budget * length
    context = max(whole(total * share), 1)
    counts = [(0, 0)] * length
    chosen = anchors(valid, step)
    for number, frame in enumerate(valid):
        own = _part(context, len(chosen), chosen.index(frame)) if frame in chosen else 0
        own = min(own, patches // 2)
        counts[frame] = (min(_part(total - context, len(valid), number), patches - own), own)
    return counts


def _part(total: int, parts: int, number: int) -> int:
    return total // parts + (number < total % parts)


def chosen_tokens(
    clip: Float[Tensor, "frame patch dim"], scores: Float[Tensor, "frame patch"], counts: Sequence[tuple[int, int]]
) -> tuple[Bool[Tensor, "frame patch"], Bool[Tensor, "frame patch"]]:
    """Returns the tokens of highest score of each frame, and the context tokens, density peaks of the others.

    Args:
        clip: Features.
        scores: Scores.
        counts: Numbers of salient and of context tokens of each frame.
    """
    number, given = on_device(torch.tensor(counts), clip.device).unbind(1)
    rank = scores.argsort(dim=1, descending=True, stable=True).argsort(1)
    salient = rank < number[:, None]
    most = max(peaks for _, peaks in counts)
    if not most:
        return salient, torch.zeros_like(salient)
    centres, _ = density_peaks(clip, ~salient, given, _NEIGHBOURS, most)
    context = torch.zeros(clip.shape[0], clip.shape[1] + 1, dtype=torch.bool, device=clip.device)
    context.scatter_(1, centres.masked_fill(centres == PADDING, clip.shape[1]), True)
    return salient, context[:, :-1]


def blended(
    points: Float[Tensor, "point dim"], pool: Bool[Tensor, " point"], targets: Int[Tensor, " target"], blend: float
) -> Float[Tensor, "target point"]:
    """Returns rows that add to each target the mean of the tokens of a pool that are most similar to it.

    A target with n such tokens has the weight 1 / (n + 1), and at least `blend`.

    Args:
        points: Features of the tokens.
        pool: Mask of the tokens that are merged.
        targets: Tokens that they are merged into, at least one.
        blend: The least weight of a target that other tokens are merged into.
    """
    unit = F.normalize(points, dim=1)
    nearest = (unit @ unit[targets].T).argmax(1)
    member = F.one_hot(nearest, len(targets)).T.to(points.dtype) * pool
    weight = (1 / (member.sum(1, keepdim=True) + 1)).clamp(min=blend)
    rows = (1 - weight) * mean_rows(member[None])[0]
    rows[torch.arange(len(targets), device=targets.device), targets] += weight[:, 0]
    return rows


def segment_tokens(
    clip: Float[Tensor, "frame patch dim"],
    salient: Bool[Tensor, "frame patch"],
    context: Bool[Tensor, "frame patch"],
    blend: float,
    with_targets: bool,
) -> Tokens:
    """Returns the tokens of one segment, ascending; every anchor frame merges the segment's other tokens into its own.

    Args:
        clip: Features of the segment's frames.
        salient: The salient tokens, which stay unchanged; on the CPU.
        context: The context tokens, which others are merged into; on the CPU.
        blend: See `blended`.
        with_targets: Whether the context tokens of an anchor frame are among those merged into them.
    """
    points, patches, device = clip.flatten(0, 1), clip.shape[1], clip.device
    fixed = salient.flatten().nonzero()[:, 0]
    origins, rows = [fixed], [unit_rows(on_device(fixed, device)[None], len(points))[0]]
    for frame in context.any(1).nonzero()[:, 0].tolist():
        targets = frame * patches + context[frame].nonzero()[:, 0]
        pool = ~salient.flatten()
        if not with_targets:
            pool[targets] = False
        origins.append(targets)
        rows.append(blended(points, on_device(pool, device), on_device(targets, device), blend).float())
    origin, order = torch.cat(origins).sort(stable=True)
    return on_device(origin, device), torch.cat(rows)[on_device(order, device)]
