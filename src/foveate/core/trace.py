"""What is recorded of a batch of images for scorers, selectors and mergers to read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from foveate.core.arrangement import Arrangement, Views
from foveate.core.errors import UnsupportedNeed
from foveate.core.needs import Need

PADDING = -1  # in lists of patches: no patch, the image has fewer
EXTRA = -2  # as origin of a token: a real token that stands at no patch's place


@dataclass(frozen=True, eq=False)
class Trace:
    """What was recorded for a batch of images: the answer to each need, under that need.

    All rows of a trace are of one shape. Before the language model the patch axis holds every patch of an image. At a
    cut inside it, it holds the visual tokens that are still there, `place` tells which patches they are, and with
    several images in a prompt the patches of the second count on from those of the first.

    Attributes:
        values: The answers.
        views: Of the images of every row.
        batch: Number of rows.
        place: Int[batch patch], where it is not simply every patch: the patch, `EXTRA` or `PADDING`.
        tiles: Int[every], of each patch of the views which of the tower's images shows it; None where a view is one.
    """

    values: Mapping[Need, Tensor]
    views: Views
    batch: int
    place: Int[Tensor, "batch patch"] | None = None
    tiles: Int[Tensor, " every"] | None = None

    @classmethod
    def recorded(cls, values: Mapping[Need, Tensor], arrangement: Arrangement, batch: int) -> "Trace":
        """Returns what was recorded of so many images of one arrangement."""
        tiles = torch.tensor(arrangement.tiles) if arrangement.tiles else None
        return cls(values, arrangement.views, batch, tiles=tiles)

    @property
    def patches(self) -> int:
        """How many patches the images of a row have, before any compression."""
        return sum(view.patches for view in self.views)

    def __getitem__(self, need: Need) -> Tensor:
        if need not in self.values:
            raise UnsupportedNeed(
                f"{need} was not recorded; a scorer may read only what its `needs` name, and some needs only "
                f"annotated data can answer. Recorded: {', '.join(map(str, self.values)) or 'nothing'}"
            )
        return self.values[need]

    def answers(self, needs: Iterable[Need]) -> dict[Need, Tensor]:
        """Returns the answers to some of the needs."""
        return {need: self[need] for need in needs}

    def chosen(self, rows: Int[Tensor, " row"]) -> "Trace":
        """What was recorded of some of the rows."""
        values = {need: value[rows.to(value.device)] for need, value in self.values.items()}
        place = None if self.place is None else self.place[rows.to(self.place.device)]
        return Trace(values, self.views, len(rows), place, self.tiles)

    @property
    def places(self) -> Int[Tensor, "batch patch"]:
        """`place`, spelled out."""
        return torch.arange(self.patches).expand(self.batch, -1) if self.place is None else self.place
