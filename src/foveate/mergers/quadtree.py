"""Nodes of quadtrees over frames, and groups of nodes that stay alike over time."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.arrangement import Views
from foveate.core.budget import Keep, resolve_keep
from foveate.core.compression import Compression
from foveate.core.contracts import Merger
from foveate.core.errors import UnsupportedNeed
from foveate.core.trace import Trace
from foveate.functional.components import bisected
from foveate.functional.mixing import Tokens, stacked
from foveate.functional.quadtree import cell_weights, contained, grouped, nodes


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
        shift = 0.0
        if self.keep is not None:
            most = resolve_keep(self.keep, len(points))
            shift = bisected(lambda value: len(self._groups(points, views, together, value)[0].unique()), most)
        group, weight = self._groups(points, views, together, shift)
        origin = group.unique()
        return origin, (group == origin[:, None]) * weight.float()

    def _groups(
        self, points: Float[Tensor, "patch dim"], views: Views, together: bool, shift: float
    ) -> tuple[Int[Tensor, " patch"], Float[Tensor, " patch"]]:
        """Returns for each patch the first patch of its group, and its weight in the mean."""
        owners, weights, start = [], [], 0
        for view, frame in zip(views, points.split([view.patches for view in views]), strict=True):
            owner = nodes(frame, view, _moved(self.spatial, shift), self.as_published)
            weights.append(cell_weights(owner, view))
            owners.append(owner + start)
            start += view.patches
        weight = torch.cat(weights)
        place, node = torch.cat(owners).unique(return_inverse=True)
        if not together:
            return place[node], weight
        mean = points.new_zeros(len(place), points.shape[1]).index_add_(0, node, weight[:, None] * points)
        edges = contained(node.split([view.patches for view in views]))
        alike = F.cosine_similarity(mean[edges[:, 0]], mean[edges[:, 1]], dim=1) >= _moved(self.temporal, shift)
        group = grouped(edges[alike], len(place), self.as_published)
        return place[group[node]], weight / group.bincount()[group[node]]

    def extra(self, dropped: int) -> int:
        return dropped if self.keep is None else resolve_keep(self.keep, dropped)


def _moved(threshold: float, shift: float) -> float:
    """Returns a threshold that is moved by a share of its distance to 1, or to -1 by a negative share."""
    return threshold + shift * (1 - threshold if shift > 0 else 1 + threshold)
