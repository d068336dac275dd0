"""Reductions: rules that drop or merge tokens inside the vision tower."""

from foveate.reductions.bipartite import Bipartite
from foveate.reductions.information_flow import InformationFlow

__all__ = ["Bipartite", "InformationFlow"]
