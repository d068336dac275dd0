"""Compressors that change one aspect of another compressor."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from foveate.compressors.base import Compressor, Positions
from foveate.core.compression import Compressed, Decision
from foveate.core.contracts import Cut, ImageBatch
from foveate.core.needs import Need

if TYPE_CHECKING:  # transformers takes seconds to import
    from foveate.models.loading.load import LoadedModel


@dataclass(frozen=True)
class AroundCompressor(Compressor):
    """Base class of compressors that pass everything they do not override on to another compressor.

    Attributes:
        compressor: The other compressor.
    """

    compressor: Compressor

    @property
    def positions(self) -> Positions:  # type: ignore[override] (a field elsewhere)
        return self.compressor.positions

    @property
    def needs(self) -> tuple[Need, ...]:
        return self.compressor.needs

    @property
    def cuts(self) -> tuple[Cut, ...]:
        return self.compressor.cuts

    @property
    def repack(self) -> bool:
        return self.compressor.repack

    @property
    def static_count(self) -> bool:  # type: ignore[override] (a constant elsewhere)
        return self.compressor.static_count

    @property
    def shared_by(self) -> int:  # type: ignore[override] (a constant elsewhere)
        return self.compressor.shared_by

    def resized(self, loaded: "LoadedModel") -> "tuple[LoadedModel, Compressor]":
        small, compressor = self.compressor.resized(loaded)
        return small, replace(self, compressor=compressor)

    def tiled(self, per_tile: bool = False, separators: bool = True, own_positions: bool = False) -> Compressor:
        return replace(self, compressor=self.compressor.tiled(per_tile, separators, own_positions))

    def compress(self, images: ImageBatch) -> Compressed:
        return self.compressor.compress(images)

    def decide(self, images: ImageBatch) -> tuple[Tensor, Decision]:
        return self.compressor.decide(images)

    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        return self.compressor.plan(patches, depth)
