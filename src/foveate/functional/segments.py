"""Segments of a video: runs of frames that are cut where neighbours differ, by clusters, or by what stands still."""

from collections.abc import Sequence
from itertools import groupby

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveate.core.transfer import on_host


def segments(similarity: Float[Tensor, " gap"], threshold: float, least: int = 1) -> list[int]:
    """Returns the numbers of frames of segments, cut where neighbouring frames are less similar than a threshold.

    Args:
        similarity: Similarity of each frame but the last to the next.
        threshold: Frames that are less similar are cut apart.
        least: Smallest number of segments, as far as there are frames; the least similar frames are cut apart for it.
    """
    (similarity,) = on_host(similarity)
    cut = similarity < threshold
    cut[similarity.argsort(stable=True)[: least - 1]] = True
    ends = [*(cut.nonzero()[:, 0] + 1).tolist(), len(similarity) + 1]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def starts_of(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Returns the first frame and the number of frames of each segment."""
    return [(sum(lengths[:number]), length) for number, length in enumerate(lengths)]


def run_lengths(labels: Sequence[int]) -> list[int]:
    """Returns the lengths of the runs of equal labels."""
    return [len(list(run)) for _, run in groupby(labels)]


def refined_labels(labels: Sequence[int]) -> list[int]:
    """Returns labels of which each stands in its longest runs of at least two frames only.

    Frames between those take the label of the longer adjacent run, of equal ones the left; runs are measured from left
    to right on what is already repaired. If no label has such a run, all labels are 0.

    Source: arXiv 2412.16117 (PruneVid).
    """
    longest: dict[int, int] = {}
    runs = [(label, len(list(run))) for label, run in groupby(labels)]
    for label, length in runs:
        longest[label] = max(length, longest.get(label, 2))
    found = [label if length == longest[label] else None for label, length in runs for _ in range(length)]
    while None in found:
        start = found.index(None)
        end = next((place for place in range(start, len(found)) if found[place] is not None), len(found))
        left, right = _first_run(found[:start][::-1]), _first_run(found[end:])
        label = found[end] if right > left else found[start - 1] if start else 0
        found[start:end] = [label] * (end - start)
    return [label for label in found if label is not None]


def _first_run(labels: Sequence[int | None]) -> int:
    return next((len(list(run)) for _, run in groupby(labels)), 0)


def static_windows(static: Bool[Tensor, "gap patch"], longest: int) -> tuple[list[int], int]:
    """Returns the windows whose static patches save most frames, and the number of tokens that they save.

    A window of n frames saves n - 1 tokens for each patch that is static in all its transitions. Of equal sums the last
    window is the shortest.

    Source: arXiv 2505.21334 (HoliTom).

    Args:
        static: Whether each patch is static between each frame but the last and the next; on the CPU.
        longest: Greatest length of a window.
    """
    frames = len(static) + 1
    saved = [[0] * frames for _ in range(frames)]
    for start in range(frames - 1):
        counts = static[start:].long().cumprod(0).sum(1)
        saved[start][start + 1 :] = (counts * torch.arange(1, frames - start)).tolist()
    best, width = [0] * (frames + 1), [1] * (frames + 1)
    for end in range(1, frames + 1):
        best[end] = best[end - 1]
        for length in range(2, min(end, longest) + 1):
            if (sum_ := best[end - length] + saved[end - length][end - 1]) > best[end]:
                best[end], width[end] = sum_, length
    lengths, end = [], frames
    while end:
        lengths.append(width[end])
        end -= width[end]
    return lengths[::-1], best[frames]
