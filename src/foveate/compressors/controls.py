"""References and controls without plug-ins."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from foveate.compressors.base import Compressor, Positions, equal_scores, uncompressed
from foveate.core.arrangement import Views
from foveate.core.budget import Keep, resolve_keep
from foveate.core.compression import Compressed, Compression, Decision
from foveate.core.contracts import ImageBatch
from foveate.core.needs import Downsampled
from foveate.core.transfer import on_device
from foveate.functional.geometry import nearest_grid, pooling_matrix
from foveate.functional.regions import proportional

if TYPE_CHECKING:  # transformers takes seconds to import
    from foveate.models.loading.load import LoadedModel


@dataclass(frozen=True)
class Pool(Compressor):
    """Control: average pooling of the patch grid to a grid of about `keep` tokens.

    Attributes:
        keep: The budget.
        positions: See `Compressor`.
    """

    keep: Keep
    static_count: ClassVar[bool] = True
    positions: Positions = "repacked"

    def compress(self, images: ImageBatch) -> Compressed:
        sources, decision = self.decide(images)
        return Compressed.of(images.project(decision.compression.apply(sources)), decision, images.arrangement)

    def decide(self, images: ImageBatch) -> tuple[Tensor, Decision]:
        sources, trace = images.encode(())
        compression = _pooled(trace.views, resolve_keep(self.keep, trace.patches), sources)
        return sources, Decision(equal_scores(trace, sources), compression)

    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        return _planned(self.keep, patches, depth)


@dataclass(frozen=True)
class Downsample(Compressor):
    """Control: a smaller image, of the size whose number of visual tokens is nearest to `keep`.

    Evaluations prepare it by the family's own image processor (`LoadedModel.smaller`), and the rest of the model is
    stock. Attached to a model, whose pixels have a size already, it works in LLaVA-1.5, which resizes the pixels.

    Attributes:
        keep: The budget.
        positions: See `Compressor`.
    """

    keep: Keep
    static_count: ClassVar[bool] = True
    positions: Positions = "repacked"

    def compress(self, images: ImageBatch) -> Compressed:
        keep, grid = resolve_keep(self.keep, images.arrangement.patches), images.arrangement.views[0]
        need = Downsampled(*nearest_grid(keep, grid.rows, grid.columns))
        _, trace = images.encode((need,))
        features = trace[need]
        decision = Decision(equal_scores(trace, features), _pooled((grid,), keep, features))
        return Compressed.of(images.project(features), decision, images.arrangement)

    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        return _planned(self.keep, patches, depth)

    def resized(self, loaded: "LoadedModel") -> "tuple[LoadedModel, Compressor]":
        return (loaded, self) if loaded.adapter.resizes_pixels else (loaded.smaller(self.keep), Identity())


@dataclass(frozen=True)
class Identity(Compressor):
    """Reference: every patch.

    Attributes:
        positions: See `Compressor`.
    """

    static_count: ClassVar[bool] = True
    positions: Positions = "original"

    def compress(self, images: ImageBatch) -> Compressed:
        return uncompressed(images)

    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        return (float(patches),) * depth


@dataclass(frozen=True)
class Blind(Compressor):
    """Reference: no visual tokens, so that the language model answers without the image.

    Attributes:
        positions: See `Compressor`.
    """

    static_count: ClassVar[bool] = True
    positions: Positions = "repacked"

    def compress(self, images: ImageBatch) -> Compressed:
        everything = uncompressed(images)
        nothing = torch.empty(len(everything.tokens), 0, dtype=torch.long, device=everything.tokens.device)
        decision = replace(everything.decision, compression=Compression(nothing))
        return replace(everything, tokens=everything.tokens[:, :0], decision=decision, separators=False)

    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        return (0.0,) * depth


def _pooled(views: Views, keep: int, features: Tensor) -> Compression:
    """Returns the pooling of each view; the budget is split in proportion to their patches."""
    sizes = torch.tensor([[float(grid.patches) for grid in views]])
    middles, blocks, start = [], [], 0
    for grid, share in zip(views, proportional(sizes, keep)[0].tolist(), strict=True):
        rows, columns = nearest_grid(max(1, share), grid.rows, grid.columns)
        blocks.append(pooling_matrix(grid.rows, grid.columns, rows, columns))
        down, right = torch.arange(rows) * grid.rows // rows, torch.arange(columns) * grid.columns // columns
        middle = (down + grid.rows // rows // 2)[:, None] * grid.columns + right + grid.columns // columns // 2
        middles.append(start + middle.flatten())
        start += grid.patches
    origin, mixing = (on_device(made, features.device) for made in (torch.cat(middles), torch.block_diag(*blocks)))
    return Compression(origin.expand(features.shape[0], -1), mixing.expand(features.shape[0], -1, -1))


def planned_grid(keep: Keep, patches: int) -> int:
    """Returns the number of cells of the grid that is nearest to a budget, for a square image."""
    side = math.isqrt(patches)
    return math.prod(nearest_grid(resolve_keep(keep, patches), side, side))


def _planned(keep: Keep, patches: int, depth: int) -> tuple[float, ...]:
    return (float(planned_grid(keep, patches)),) * depth
