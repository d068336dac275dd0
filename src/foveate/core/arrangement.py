"""Where the patches of an image lie, and how they stand in a prompt."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """Where the patches of a view lie: raster order, row by row."""

    rows: int
    columns: int

    @property
    def patches(self) -> int:
        return self.rows * self.columns


Views = tuple[Grid, ...]
"""Of an image, or of all images of a prompt: their patches are numbered view by view."""


@dataclass(frozen=True)
class Arrangement:
    """Where the patches of one image lie, and how they stand in the run of its placeholders.

    A patch is what becomes one visual token: where a model merges several of its tower's patches, all of them together.

    Attributes:
        views: One for most models; the whole image and its enlargement, or tile by tile, for those that cut it up.
        boxes: The part of the image that each view shows: top, left, bottom and right as shares of its sides.
        separators: Where in the run tokens stand that are no patch, such as those that end a row; ascending.
        tiles: Of each patch which of the tower's images shows it; empty where there is but one.
    """

    views: Views
    boxes: tuple[tuple[float, float, float, float], ...] = ((0.0, 0.0, 1.0, 1.0),)
    separators: tuple[int, ...] = ()
    tiles: tuple[int, ...] = ()

    @property
    def patches(self) -> int:
        return sum(view.patches for view in self.views)

    @property
    def length(self) -> int:
        """How many placeholders the run has."""
        return self.patches + len(self.separators)

    @cached_property
    def offsets(self) -> Int[Tensor, " patch"]:
        """Where in the run each patch stands."""
        with torch.inference_mode(False):  # it is remembered, and may be part of a pass with gradients later
            stands = torch.ones(self.length, dtype=torch.bool)
            stands[list(self.separators)] = False
            return stands.nonzero()[:, 0]
