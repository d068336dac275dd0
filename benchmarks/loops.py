"""Greedy selections of one image, written step by step from the formulas of the papers."""

import torch
from torch import Tensor


def max_min(similarity: Tensor, keep: int) -> list[int]:
    """Returns the choice of DivPrune (arXiv 2503.02175): repeatedly the patch farthest from its nearest choice."""
    distance = 1 - similarity
    others = distance.clone().fill_diagonal_(torch.inf)
    chosen = [int(others.amin(1).argmax())]
    while len(chosen) < keep:
        gap = distance[chosen].amin(0)
        gap[chosen] = -torch.inf
        chosen.append(int(gap.argmax()))
    return chosen


def max_min_running(similarity: Tensor, keep: int) -> list[int]:
    """Returns the choice of `max_min`, updating the distance to the nearest chosen patch in every step."""
    distance = 1 - similarity
    chosen = [int(distance.clone().fill_diagonal_(torch.inf).amin(1).argmax())]
    gap = distance[chosen[0]].clone()
    while len(chosen) < keep:
        gap[chosen[-1]] = -torch.inf
        chosen.append(int(gap.argmax()))
        gap = torch.minimum(gap, distance[chosen[-1]])
    return chosen


def determinantal(kernel: Tensor, keep: int) -> list[int]:
    """Returns the choice of CDPruner (arXiv 2506.10967).

    In every step e_i = (L_ji - <c_j, c_i>) / d_j is appended to c_i, and d_i^2 is reduced by e_i^2.
    """
    c = kernel.new_zeros(len(kernel), 0)
    left, chosen = kernel.diagonal().clone(), []
    for _ in range(keep):
        j = int(left.argmax())
        e = (kernel[j] - c @ c[j]) / left[j].sqrt()
        c = torch.cat([c, e[:, None]], 1)
        left -= e**2
        left[j] = -torch.inf
        chosen.append(j)
    return chosen


def determinantal_in_place(kernel: Tensor, keep: int) -> list[int]:
    """Returns the choice of `determinantal` with preallocated memory for all c."""
    c = kernel.new_zeros(keep, len(kernel))
    left, chosen = kernel.diagonal().clone(), []
    for step in range(keep):
        j = int(left.argmax())
        c[step] = (kernel[j] - c[:step, j] @ c[:step]) / left[j].sqrt()
        left -= c[step] ** 2
        left[j] = -torch.inf
        chosen.append(j)
    return chosen


def coverage(similarity: Tensor, weight: Tensor, keep: int) -> list[int]:
    """Returns the choice of SCOPE (arXiv 2510.24214).

    Every step takes the largest sum_i max(0, S_ij - m_i) a_j; then m becomes max(m, S_j).
    """
    covered, chosen = torch.zeros_like(weight), []
    for _ in range(keep):
        gain = (similarity - covered[:, None]).clamp(min=0).sum(0) * weight
        gain[chosen] = -torch.inf
        j = int(gain.argmax())
        covered = torch.maximum(covered, similarity[:, j])
        chosen.append(j)
    return chosen
