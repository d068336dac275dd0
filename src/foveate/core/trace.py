"""The trace: answers to needs, which scorers, selectors and mergers read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from foveate.core.arrangement import Arrangement, Views
from foveate.core.errors import UnsupportedNeed
from foveate.core.needs import Need
from foveate.core.transfer import on_device

PADDING = -1  # in lists of patches: no patch, because this image has fewer than others
EXTRA = -2  # as origin of a token: a token that takes no patch's position


@dataclass(frozen=True, eq=False)
class Trace:
    """Answers to needs for a batch of images, each under its need.

    All rows have the same shape. Before the language model the patch axis holds every patch of an image. At a cut
    inside it, the axis holds the remaining visual tokens, and `origin` says which patches they are. If a prompt has
    several images, the patches of the second are numbered after those of the first.

    Attributes:
        values: The answers.
        views: Views of the images of each row.
        batch: Number of rows.
        origin: For each entry of the patch axis, its patch, `EXTRA` or `PADDING`; None if the axis holds every patch.
        tiles: For each patch of the views, the number of the tile that shows it; None if every view is one tile.
        images: Number of images of each row: those of its prompt at a cut inside the language model, otherwise 1.
        frames: Number of frames of the video of each row, one per view; 1 for an image, whose views show the same
            moment. At a cut inside the language model it is 1, and every view counts for itself.
    """

    values: Mapping[Need, Tensor]
    views: Views
    batch: int
    origin: Int[Tensor, "batch patch"] | None = None
    tiles: Int[Tensor, " every"] | None = None
    images: int = 1
    frames: int = 1

    @classmethod
    def recorded(cls, values: Mapping[Need, Tensor], arrangement: Arrangement, batch: int) -> "Trace":
        """Returns the trace of `batch` images of one arrangement."""
        tiles = torch.tensor(arrangement.tiles) if arrangement.tiles else None
        return cls(values, arrangement.views, batch, tiles=tiles, frames=arrangement.frames or 1)

    @property
    def patches(self) -> int:
        """Number of patches of the images of a row, before any compression."""
        return sum(view.patches for view in self.views)

    def __getitem__(self, need: Need) -> Tensor:
        if need not in self.values:
            raise UnsupportedNeed(
                f"{need} was not recorded: a plug-in reads only what its `needs` name, and some needs have answers for "
                f"annotated data only. Recorded: {', '.join(map(str, self.values)) or 'nothing'}"
            )
        return self.values[need]

    def answers(self, needs: Iterable[Need]) -> dict[Need, Tensor]:
        """Returns the answers to some of the needs."""
        return {need: self[need] for need in needs}

    def chosen(self, rows: Int[Tensor, " row"]) -> "Trace":
        """Returns the trace of some of the rows."""
        values = {need: value[on_device(rows, value.device)] for need, value in self.values.items()}
        origin = None if self.origin is None else self.origin[on_device(rows, self.origin.device)]
        return Trace(values, self.views, len(rows), origin, self.tiles, self.images, self.frames)

    @property
    def origins(self) -> Int[Tensor, "batch patch"]:
        """The `origin` of each entry, also if the patch axis holds every patch."""
        return torch.arange(self.patches).expand(self.batch, -1) if self.origin is None else self.origin

    @property
    def real(self) -> Bool[Tensor, "batch patch"]:
        """Mask of the entries of the patch axis that are not padding."""
        return self.origins != PADDING
