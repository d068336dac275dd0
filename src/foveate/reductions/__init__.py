"""Reductions: rules that drop or merge tokens inside the vision tower."""

from foveate.reductions.bipartite import Bipartite
from foveate.reductions.filter_and_merge import FilterAndMerge
from foveate.reductions.filter_and_merge_as_published import FilterAndMergeAsPublished
from foveate.reductions.information_flow import InformationFlow

__all__ = ["Bipartite", "FilterAndMerge", "FilterAndMergeAsPublished", "InformationFlow"]
