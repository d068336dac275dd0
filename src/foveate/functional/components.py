"""Connected components of graphs of similar tokens."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.functional.fixed_point import fixed_point
from foveate.functional.matching import cosine
from foveate.functional.mixing import Tokens

_STEPS = 15  # halvings of an interval of length 2


def components(edges: Bool[Tensor, "batch node node"]) -> Int[Tensor, "batch node"]:
    """Returns for each node the lowest node of its component; every node must have an edge to itself."""
    nodes = edges.shape[2]
    label = torch.arange(nodes, dtype=torch.int32, device=edges.device).expand(len(edges), -1)

    def lowered(label: Int[Tensor, "batch node"]) -> Int[Tensor, "batch node"]:
        lowest = torch.where(edges, label[:, None], nodes).amin(2)
        return lowest.gather(1, lowest.long())

    return fixed_point(lowered, label).long()


def cosines(features: Float[Tensor, "batch node dim"]) -> Float[Tensor, "batch node node"]:
    """Returns the cosines of all pairs in float32."""
    return cosine(features.float(), features.float())


def leaders(similarity: Float[Tensor, "batch node node"], threshold: float) -> Int[Tensor, "batch node"]:
    """Returns for each node the node of highest degree of its component, of equal ones the first.

    Args:
        similarity: Similarities of all pairs.
        threshold: Edges have a similarity above it.
    """
    edges = (similarity > threshold) | torch.eye(similarity.shape[2], dtype=torch.bool, device=similarity.device)
    label = components(edges)
    by_degree = edges.sum(2).argsort(dim=1, descending=True, stable=True)
    rank = by_degree.argsort(1)
    best = torch.full_like(rank, rank.shape[1]).scatter_reduce_(1, label, rank, "amin")
    return by_degree.gather(1, best.gather(1, label))


def groups_of(leading: Int[Tensor, " node"]) -> tuple[Int[Tensor, " group"], Int[Tensor, " node"]]:
    """Returns the leaders of groups, ascending, and the number of the group of each node, given the leader of each."""
    leads = leading == torch.arange(len(leading), device=leading.device)
    return leads.nonzero()[:, 0], (leads.cumsum(0) - 1)[leading]


def twice_grouped(
    clip: Float[Tensor, "frame patch dim"], similarity: Float[Tensor, "frame patch patch"], threshold: float
) -> tuple[Int[Tensor, " token"], Int[Tensor, " every"], Float[Tensor, " every"]]:
    """Returns the components of each frame, and then of all their means together.

    Args:
        clip: Features.
        similarity: The `cosines` of each frame.
        threshold: Cosine above which patches, and then means, are connected.

    Returns:
        The patch that each of the last components stands at, the component of each patch, and the weight of each patch
        in its mean, which is a mean of means.
    """
    points = clip.flatten(0, 1)
    start = torch.arange(0, len(points), clip.shape[1], device=clip.device)[:, None]
    origin, group = groups_of((leaders(similarity, threshold) + start).flatten())
    size = _sizes(group, len(origin)).to(clip.dtype)
    means = points.new_zeros(len(origin), points.shape[1]).index_add_(0, group, points) / size[:, None]
    chosen, second = groups_of(leaders(cosines(means[None]), threshold)[0])
    owner = second[group]
    return origin[chosen], owner, 1 / size[group] / _sizes(second, len(chosen))[owner]


def _sizes(group: Int[Tensor, " node"], count: int) -> Int[Tensor, " group"]:
    return group.new_zeros(count).index_add_(0, group, torch.ones_like(group))


def semantic_tokens(
    clip: Float[Tensor, "frame patch dim"],
    origin: Int[Tensor, " token"],
    owner: Int[Tensor, " every"],
    weight: Float[Tensor, " every"],
) -> Tokens:
    """Returns tokens of the components of each frame, and of the means of all frames' components together.

    Every patch then joins the most similar token, which becomes the mean of itself and of all that join it.

    Source: arXiv 2506.21862 (LLaVA-Scissor), with exact components.

    Args:
        clip: Features.
        origin: The patch that each component stands at; see `twice_grouped` for these three.
        owner: The component of each patch.
        weight: The weight of each patch in the mean of its component.
    """
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
