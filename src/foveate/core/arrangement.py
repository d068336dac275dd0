"""Positions of the patches in an image and in a prompt."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """A grid of patches in raster order, row by row.

    Attributes:
        rows: Number of rows.
        columns: Number of columns.
    """

    rows: int
    columns: int

    @property
    def patches(self) -> int:
        """Number of patches."""
        return self.rows * self.columns


Views = tuple[Grid, ...]
"""The views of an image, or of all images of a prompt; patches are numbered view by view."""


@dataclass(frozen=True)
class Arrangement:
    """Positions of the patches of one image or video, in it and among its placeholders in the prompt.

    A patch becomes one visual token; a model that merges several patches of its tower counts them as one.

    Attributes:
        views: The grids of the image's views: one in most models, several in models that cut the image into tiles.
        boxes: For each view, the part of the image that it shows: top, left, bottom, right as shares of the sides.
        separators: Offsets of separators among the placeholders, ascending.
        tiles: For each patch, the number of the tile that shows it; empty if there is one tile.
        frames: Number of frames of a video, each shown by one view of the same grid; frames that the model merges in
            time count as one. 0 for an image.
        seconds: The time of each frame, where positions or prompts depend on it.
    """

    views: Views
    boxes: tuple[tuple[float, float, float, float], ...] = ((0.0, 0.0, 1.0, 1.0),)
    separators: tuple[int, ...] = ()
    tiles: tuple[int, ...] = ()
    frames: int = 0
    seconds: tuple[float, ...] = ()

    @property
    def patches(self) -> int:
        """Number of patches of all views."""
        return sum(view.patches for view in self.views)

    @property
    def length(self) -> int:
        """Number of placeholders."""
        return self.patches + len(self.separators)

    @cached_property
    def offsets(self) -> Int[Tensor, " patch"]:
        """The offset of each patch among the placeholders."""
        with torch.inference_mode(False):  # the cached tensor may take part in a pass with gradients later
            is_patch = torch.ones(self.length, dtype=torch.bool)
            is_patch[list(self.separators)] = False
            return is_patch.nonzero()[:, 0]
