"""Compressors in sequence."""

from dataclasses import dataclass

from foveate.compressors.base import Compressor, Positions
from foveate.core.compression import Compressed
from foveate.core.contracts import Cut, ImageBatch
from foveate.core.errors import FoveateError
from foveate.core.needs import Need


@dataclass(frozen=True)
class Pipeline(Compressor):
    """Compressor that applies several others in sequence: one of any kind, then cuts inside the language model.

    Attributes:
        parts: The compressors in order; a pipeline among them is replaced by its parts.
        positions: The positions of the vision side.
    """

    parts: tuple[Compressor, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        flat = tuple(inner for part in self.parts for inner in (part.parts if isinstance(part, Pipeline) else (part,)))
        object.__setattr__(self, "parts", flat)
        if not self.parts or any(part.cuts != (part,) for part in self.parts[1:]):
            raise FoveateError(
                f"Pipeline{tuple(type(part).__name__ for part in self.parts)}: expected one compressor of any kind, "
                "then those that cut inside the language model"
            )

    def tiled(self, per_tile: bool = False, separators: bool = True, own_positions: bool = False) -> Compressor:
        return Pipeline((self.parts[0].tiled(per_tile, separators, own_positions), *self.parts[1:]))

    @property
    def positions(self) -> Positions:  # type: ignore[override] (a field elsewhere)
        return "repacked" if self.parts[0].repack and not self.parts[0].cuts else "original"

    @property
    def needs(self) -> tuple[Need, ...]:
        return tuple(dict.fromkeys(need for part in self.parts for need in part.needs))

    @property
    def cuts(self) -> tuple[Cut, ...]:
        return tuple(cut for part in self.parts for cut in part.cuts)

    @property
    def static_count(self) -> bool:  # type: ignore[override] (a constant elsewhere)
        return all(part.static_count for part in self.parts)

    def compress(self, images: ImageBatch) -> Compressed:
        return self.parts[0].compress(images)

    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        blocks = self.parts[0].plan(patches, depth)
        for cut in (cut for part in self.parts[1:] for cut in part.cuts):
            blocks = cut.planned(blocks, patches)
        return blocks
