"""Selectors: rules that turn scores into kept patches, one file each."""

from foveate.selectors.anchors import Anchors
from foveate.selectors.at_least_a_frame import AtLeastAFrame
from foveate.selectors.changed_in_groups import ChangedInGroups
from foveate.selectors.chunk_quota import ChunkQuota
from foveate.selectors.determinantal import Determinantal
from foveate.selectors.even_frames import EvenFrames
from foveate.selectors.facility_location import FacilityLocation
from foveate.selectors.frame_shares import FrameShares
from foveate.selectors.important_diverse import ImportantDiverse
from foveate.selectors.least_alike import LeastAlike
from foveate.selectors.local_and_global import LocalAndGlobal
from foveate.selectors.log_determinant import LogDeterminant
from foveate.selectors.marginal_relevance import MarginalRelevance
from foveate.selectors.mass import Mass
from foveate.selectors.max_coverage import MaxCoverage
from foveate.selectors.max_min import MaxMin
from foveate.selectors.nothing import Nothing
from foveate.selectors.outliers import Outliers
from foveate.selectors.outliers_and_stride import OutliersAndStride
from foveate.selectors.per_tile import PerTile
from foveate.selectors.principal_groups import PrincipalGroups
from foveate.selectors.stride import Stride
from foveate.selectors.tile_shares import TileShares
from foveate.selectors.top_k import TopK
from foveate.selectors.top_k_per_view import TopKPerView
from foveate.selectors.top_share import TopShare
from foveate.selectors.union import Union
from foveate.selectors.weighted_max_min import WeightedMaxMin

__all__ = [
    "Anchors",
    "AtLeastAFrame",
    "ChangedInGroups",
    "ChunkQuota",
    "Determinantal",
    "EvenFrames",
    "FacilityLocation",
    "FrameShares",
    "ImportantDiverse",
    "LeastAlike",
    "LocalAndGlobal",
    "LogDeterminant",
    "MarginalRelevance",
    "Mass",
    "MaxCoverage",
    "MaxMin",
    "Nothing",
    "Outliers",
    "OutliersAndStride",
    "PerTile",
    "PrincipalGroups",
    "Stride",
    "TileShares",
    "TopK",
    "TopKPerView",
    "TopShare",
    "Union",
    "WeightedMaxMin",
]
