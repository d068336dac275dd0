"""Choices of patches, given scores."""

from foveate.selectors.top_k import TopK

__all__ = ["TopK"]
