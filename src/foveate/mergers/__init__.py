"""Mergers: rules for what the dropped patches add to the kept ones, one file each."""

from foveate.mergers.basis_and_nearest import BasisAndNearest
from foveate.mergers.clusters import Clusters
from foveate.mergers.components import Components
from foveate.mergers.contextual import Contextual
from foveate.mergers.drop import Drop
from foveate.mergers.dropped_mean import DroppedMean
from foveate.mergers.nearest import Nearest
from foveate.mergers.quadtree import Quadtree
from foveate.mergers.running_mean import RunningMean
from foveate.mergers.segment_anchors import SegmentAnchors
from foveate.mergers.segment_trees import SegmentTrees
from foveate.mergers.static_and_dynamic import StaticAndDynamic
from foveate.mergers.temporal_mean import TemporalMean
from foveate.mergers.text_centres import TextCentres
from foveate.mergers.weighted_neighbours import WeightedNeighbours
from foveate.mergers.window_clusters import WindowClusters
from foveate.mergers.with_cls import WithCls
from foveate.mergers.zero_fill import ZeroFill

__all__ = [
    "BasisAndNearest",
    "Clusters",
    "Components",
    "Contextual",
    "Drop",
    "DroppedMean",
    "Nearest",
    "Quadtree",
    "RunningMean",
    "SegmentAnchors",
    "SegmentTrees",
    "StaticAndDynamic",
    "TemporalMean",
    "TextCentres",
    "WeightedNeighbours",
    "WindowClusters",
    "WithCls",
    "ZeroFill",
]
