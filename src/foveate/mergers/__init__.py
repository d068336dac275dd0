"""What becomes of the patches that were not kept."""

from foveate.mergers.drop import Drop

__all__ = ["Drop"]
