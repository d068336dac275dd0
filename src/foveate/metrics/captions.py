"""Objects that a caption names and the image does not show: CHAIR (Rohrbach et al. 2018, arXiv 1809.02156)."""

from collections.abc import Sequence

from foveate.data.coco import mentioned_objects


def absent_mentions(caption: str, objects: Sequence[str]) -> list[str]:
    """Returns the COCO class of every mention in a caption of an object that is not among those of the image."""
    return [name for name in mentioned_objects(caption) if name not in objects]


def chair_match(prediction: str, references: Sequence[str]) -> float:
    """Returns 1 if a caption mentions no absent object; one minus the mean is CHAIR_s."""
    return float(not absent_mentions(prediction, references))
