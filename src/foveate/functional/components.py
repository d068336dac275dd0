"""Connected components of graphs of similar tokens."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.functional.mixing import Tokens

_STEPS = 15  # halvings of an interval of length 2


def components(edges: Bool[Tensor, "node node"]) -> Int[Tensor, " node"]:
    """Returns for each node the lowest node of its component; every node must have an edge to itself."""
    label = torch.arange(len(edges), dtype=torch.int32, device=edges.device)
    while True:
        lowest = torch.where(edges, label, len(edges)).amin(1)
        lowest = lowest[lowest.long()]
        if torch.equal(lowest, label):
            return label.long()
        label = lowest


def similar_groups(
    features: Float[Tensor, "node dim"], threshold: float
) -> tuple[Int[Tensor, " group"], Int[Tensor, " node"]]:
    """Returns the components of the graph whose edges have a cosine above a threshold.

    Returns:
        For each component its node of highest degree, of equal ones the first, ascending, and the component of each
        node.
    """
    unit = F.normalize(features, dim=1).float()
    edges = (unit @ unit.T > threshold) | torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    label = components(edges)
    by_degree = edges.sum(1).argsort(descending=True, stable=True)
    rank = torch.empty_like(by_degree).scatter_(0, by_degree, torch.arange(len(label), device=label.device))
    best = torch.full_like(rank, len(rank)).scatter_reduce_(0, label, rank, "amin")
    leading = by_degree[best[label]]  # of the component of each node
    return leading.unique(return_inverse=True)


def means(
    features: Float[Tensor, "node dim"], group: Int[Tensor, " node"], count: int
) -> tuple[Float[Tensor, "group dim"], Int[Tensor, " group"]]:
    """Returns the means of groups of nodes, and their sizes."""
    size = group.bincount(minlength=count)
    return features.new_zeros(count, features.shape[1]).index_add_(0, group, features) / size[:, None], size


def twice_grouped(
    clip: Float[Tensor, "frame patch dim"], threshold: float
) -> tuple[Int[Tensor, " token"], Int[Tensor, " every"], Float[Tensor, " every"]]:
    """Returns the components of each frame, and then of all their means together.

    Returns:
        The patch that each of the last components stands at, the component of each patch, and the weight of each patch
        in its mean, which is a mean of means.
    """
    origins, groups, values, weights = [], [], [], []
    for start, frame in zip(range(0, clip.shape[0] * clip.shape[1], clip.shape[1]), clip, strict=True):
        origin, group = similar_groups(frame, threshold)
        mean, size = means(frame, group, len(origin))
        groups.append(group + sum(map(len, origins)))
        origins.append(origin + start)
        values.append(mean)
        weights.append(1 / size[group].to(clip.dtype))
    chosen, second = similar_groups(torch.cat(values), threshold)
    owner = second[torch.cat(groups)]
    return torch.cat(origins)[chosen], owner, torch.cat(weights) / second.bincount()[owner]


def semantic_tokens(clip: Float[Tensor, "frame patch dim"], threshold: float) -> Tokens:
    """Returns tokens of the components of each frame, and of the means of all frames' components together.

    Every patch then joins the most similar token, which becomes the mean of itself and of all that join it.

    Source: arXiv 2506.21862 (LLaVA-Scissor), with exact components.
    """
    origin, owner, weight = twice_grouped(clip, threshold)
    points = clip.flatten(0, 1)
    rows = (owner == torch.arange(len(origin), device=owner.device)[:, None]) * weight
    nearest = (F.normalize(points, dim=1) @ F.normalize(rows @ points, dim=1).T).argmax(1)
    member = nearest == torch.arange(len(origin), device=owner.device)[:, None]
    return origin, ((rows + member) / (member.sum(1, keepdim=True) + 1)).float()


def bisected(count: Callable[[float], int], most: int) -> float:
    """Returns about the greatest threshold from -1 to 1 at which a number of tokens is at most a budget.

    Args:
        count: Returns the number of tokens at a threshold, which grows with it.
        most: The budget.
    """
    low, high = -1.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if (found := count(middle)) == most:
            return middle
        low, high = (middle, high) if found < most else (low, middle)
    return low
