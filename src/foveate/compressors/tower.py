"""Compression between the blocks of the vision tower."""

from dataclasses import dataclass
from typing import ClassVar

from foveate.compressors.base import Compressor, Positions
from foveate.core.budget import Keep, resolve_keep
from foveate.core.compression import Compressed, Decision
from foveate.core.contracts import ImageBatch, Reduction
from foveate.functional.ranking import marked


@dataclass(frozen=True)
class TowerCompressor(Compressor):
    """Compressor that drops or merges tokens between the blocks of the vision tower.

    Attributes:
        reduction: The reduction.
        keep: Number of tokens after the tower: a count, or a fraction of an image's patches.
        positions: See `Compressor`.
    """

    static_count: ClassVar[bool] = True
    reduction: Reduction
    keep: Keep
    positions: Positions = "repacked"

    def compress(self, images: ImageBatch) -> Compressed:
        arrangement = images.arrangement
        features, compression = images.reduced(self.reduction, resolve_keep(self.keep, arrangement.patches))
        stays = marked(compression.origin, arrangement.patches)
        return Compressed.of(images.project(features), Decision(stays.float(), compression), arrangement)

    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        return (float(resolve_keep(self.keep, patches)),) * depth
