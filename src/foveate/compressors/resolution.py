"""A compressor of the tokens of smaller images."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from foveate.compressors.around import AroundCompressor
from foveate.compressors.base import Compressor
from foveate.compressors.controls import planned_grid
from foveate.core.budget import Keep
from foveate.core.compression import Compressed
from foveate.core.contracts import ImageBatch
from foveate.core.errors import FoveateError

if TYPE_CHECKING:  # transformers takes seconds to import
    from foveate.models.loading.load import LoadedModel


@dataclass(frozen=True)
class AtResolution(AroundCompressor):
    """A compressor that receives smaller images (`LoadedModel.smaller`), in evaluations.

    Attributes:
        compressor: The compressor. A fraction as its budget is one of the smaller image's patches.
        resolution: Visual tokens of an image before the compressor: a count, or a share of those at full size.
    """

    resolution: Keep

    def resized(self, loaded: "LoadedModel") -> "tuple[LoadedModel, Compressor]":
        return loaded.smaller(self.resolution), self.compressor

    def compress(self, images: ImageBatch) -> Compressed:
        raise FoveateError(
            f"{self}: these pixels were prepared at full size; build the inputs by load(...).smaller({self.resolution})"
            f".inputs(texts, images), and attach {self.compressor} to the model"
        )

    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        return self.compressor.plan(planned_grid(self.resolution, patches), depth)
