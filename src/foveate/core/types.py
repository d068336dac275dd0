"""The values that pass between model, scorer, selector and merger."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.errors import UnsupportedNeed
from foveate.core.needs import Need


@dataclass(frozen=True)
class Grid:
    """Where the patches of an image lie: raster order, row by row."""

    rows: int
    columns: int

    @property
    def patches(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True, eq=False)
class Trace:
    """What was recorded for a batch of images: the answer to each need, under that need."""

    values: Mapping[Need, Tensor]
    grid: Grid
    batch: int

    def __getitem__(self, need: Need) -> Tensor:
        if need not in self.values:
            raise UnsupportedNeed(
                f"{need} was not recorded; a scorer may read only what its `needs` name, and some needs only "
                f"annotated data can answer. Recorded: {', '.join(map(str, self.values)) or 'nothing'}"
            )
        return self.values[need]


@dataclass(frozen=True, eq=False)
class Compression:
    """The sparse matrix M of Y = M X: row t is a weighted sum of at most `source` patches.

    Attributes:
        origin: The patch whose place (and position, where positions are kept) the token takes.
        source: The patches that the token is made of.
        weight: Their weights; zero where a row has fewer sources than the widest one.
    """

    origin: Int[Tensor, "batch kept"]
    source: Int[Tensor, "batch kept source"]
    weight: Float[Tensor, "batch kept source"]

    @property
    def size(self) -> Int[Tensor, "batch kept"]:
        """How many patches each token stands for."""
        return (self.weight != 0).sum(-1)

    def apply(self, features: Float[Tensor, "batch patch dim"]) -> Float[Tensor, "batch kept dim"]:
        """Y = M X; a token made of one patch with weight 1 is that patch bit by bit."""
        batch = torch.arange(len(features), device=features.device)[:, None, None]
        return (features[batch, self.source] * self.weight[..., None].to(features.dtype)).sum(2)
