"""Mergers: rules for what the dropped patches add to the kept ones, one file each."""

from foveate.mergers.basis_and_nearest import BasisAndNearest
from foveate.mergers.clusters import Clusters
from foveate.mergers.contextual import Contextual
from foveate.mergers.drop import Drop
from foveate.mergers.dropped_mean import DroppedMean
from foveate.mergers.nearest import Nearest
from foveate.mergers.text_centres import TextCentres
from foveate.mergers.weighted_neighbours import WeightedNeighbours
from foveate.mergers.with_cls import WithCls
from foveate.mergers.zero_fill import ZeroFill

__all__ = [
    "BasisAndNearest",
    "Clusters",
    "Contextual",
    "Drop",
    "DroppedMean",
    "Nearest",
    "TextCentres",
    "WeightedNeighbours",
    "WithCls",
    "ZeroFill",
]
