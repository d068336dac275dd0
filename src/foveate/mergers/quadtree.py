"""Nodes of quadtrees over frames, and groups of nodes that stay alike over time."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, groupby, islice
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.arrangement import Grid, Views
from foveate.core.budget import Keep, resolve_keep
from foveate.core.compression import Compression
from foveate.core.contracts import Merger
from foveate.core.errors import UnsupportedNeed
from foveate.core.trace import Trace
from foveate.core.transfer import on_device, on_host
from foveate.functional.components import bisected
from foveate.functional.mixing import Tokens, stacked
from foveate.functional.quadtree import cell_weights, contained, grouped, least_cosines, nodes

Tree = tuple[Grid, list[Float[Tensor, "frame _"]]]
"""The grid of consecutive views, and the least cosines of their cells by level, on the CPU."""


@dataclass(frozen=True)
class Quadtree(Merger):
    """Merger into nodes of quadtrees whose parts are alike, and of such nodes in neighbouring frames.

    Every view has a quadtree. If all views of a prompt have one grid, they are the frames of a video, and nodes of
    neighbouring frames of which one contains the other are grouped if they are alike; several images or videos in a
    prompt are not grouped. A token is the mean of the nodes of its group, and takes the position of the first patch of
    the first one. The choice of the selector is not read.

    Source: arXiv 2507.07990 (STTM).

    Attributes:
        spatial: Least cosine of a node and its parts.
        temporal: Least cosine of nodes that are grouped.
        keep: Budget for which each video has thresholds of its own, about the greatest with at most so many tokens.
            Both move by one share of their distance to 1 or to -1. None for fixed ones.
        as_published: See `functional.quadtree.nodes` and `grouped`.
    """

    makes_all: ClassVar[bool] = True
    spatial: float = 0.85
    temporal: float = 0.55
    keep: Keep | None = None
    as_published: bool = False

    def merge(
        self,
        features: Float[Tensor, "batch source dim"],
        kept: Int[Tensor, "batch kept"],
        scores: Float[Tensor, "batch patch"],
        trace: Trace,
        budget: int,
    ) -> Compression:
        everything = torch.arange(trace.patches).expand(len(scores), -1)
        if not torch.equal(trace.origins.cpu(), everything):
            raise UnsupportedNeed(f"{self} needs all patches, and some were dropped or merged before: use it alone")
        together = trace.images == 1 and len(set(trace.views)) == 1
        points = features[:, : trace.patches].double()
        return stacked([self._tokens(clip, trace.views, together) for clip in points])

    def _tokens(self, points: Float[Tensor, "patch dim"], views: Views, together: bool) -> Tokens:
        runs = [(grid, len(list(run))) for grid, run in groupby(views)]  # which are compared at once
        clips = points.split([grid.patches * count for grid, count in runs])
        levels = [
            least_cosines(clip.unflatten(0, (count, -1)), grid, self.as_published)
            for clip, (grid, count) in zip(clips, runs, strict=True)
        ]
        copied = iter(on_host(*chain(*levels)))
        trees = [(grid, list(islice(copied, len(own)))) for (grid, _), own in zip(runs, levels, strict=True)]
        groups, shift = cache(partial(self._groups, points, trees, together)), 0.0
        if self.keep is not None:
            shift = bisected(lambda value: len(groups(value)[0].unique()), resolve_keep(self.keep, len(points)))
        group, weight = groups(shift)
        origin, group, weight = (on_device(value, points.device) for value in (group.unique(), group, weight))
        return origin, (group == origin[:, None]) * weight.float()

    def _groups(
        self, points: Float[Tensor, "patch dim"], trees: Sequence[Tree], together: bool, shift: float
    ) -> tuple[Int[Tensor, " patch"], Float[Tensor, " patch"]]:
        """Returns for each patch the first patch of its group, and its weight in the mean, both on the CPU."""
        owners, weights, start = [], [], 0
        for grid, least in trees:
            owner = nodes(least, grid, _moved(self.spatial, shift))
            weights.append(cell_weights(owner, grid).flatten())
            first = torch.arange(start, start + owner.numel(), grid.patches)
            owners.append((owner + first[:, None]).flatten())
            start += owner.numel()
        weight = torch.cat(weights)
        place, node = torch.cat(owners).unique(return_inverse=True)
        if not together:
            return place[node], weight
        edges = contained(node.split(trees[0][0].patches))
        alike = self._cosines(points, node, weight, edges) >= _moved(self.temporal, shift)
        group = grouped(edges[alike], len(place), self.as_published)
        return place[group[node]], weight / group.bincount()[group[node]]

    def _cosines(
        self,
        points: Float[Tensor, "patch dim"],
        node: Int[Tensor, " patch"],
        weight: Float[Tensor, " patch"],
        edges: Int[Tensor, "edge 2"],
    ) -> Float[Tensor, " edge"]:
        """Returns the cosines of the means of pairs of nodes; all but the features are on the CPU."""
        count = int(node.max()) + 1
        node, weight, edges = (on_device(value, points.device) for value in (node, weight, edges))
        mean = points.new_zeros(count, points.shape[1]).index_add_(0, node, weight[:, None] * points)
        return on_host(F.cosine_similarity(mean[edges[:, 0]], mean[edges[:, 1]], dim=1))[0]

    def extra(self, dropped: int) -> int:
        return dropped if self.keep is None else resolve_keep(self.keep, dropped)


def _moved(threshold: float, shift: float) -> float:
    """Returns a threshold that is moved by a share of its distance to 1, or to -1 by a negative share."""
    return threshold + shift * (1 - threshold if shift > 0 else 1 + threshold)
