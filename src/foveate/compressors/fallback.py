"""Received attention in the place of attention that a vision tower does not have."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.compressors.base import Compressor, Positions
from foveate.core.compression import Compressed, Compression
from foveate.core.contracts import Cut, ImageBatch, Reduction
from foveate.core.needs import ClsRows, Need, ReceivedRows, resolve_layer, resolve_layers
from foveate.core.trace import Trace


@dataclass(frozen=True)
class Fallback(Compressor):
    """A compressor that is told, of every row of [CLS] that it asks for, what patches receive from all others there.

    Where a layer only sees windows of the image, another one answers. LLaVA-OneVision ports of [CLS] methods do the
    same (arXiv 2412.01818, VisPruner).

    Attributes:
        compressor: Scorer, selector and merger know nothing of it.
        layers: For each layer of the tower the one whose received attention is read.
        feature_layer: Of the tower.
    """

    compressor: Compressor
    layers: tuple[int, ...]
    feature_layer: int

    @property
    def positions(self) -> Positions:  # type: ignore[override] (a field of the others, here that of what it wraps)
        return self.compressor.positions

    @property
    def needs(self) -> tuple[Need, ...]:
        return tuple(dict.fromkeys(part for need in self.compressor.needs for part in self.asked(need)))

    @property
    def cuts(self) -> tuple[Cut, ...]:
        return self.compressor.cuts

    @property
    def repack(self) -> bool:
        return self.compressor.repack

    def tiled(self, per_tile: bool = False, separators: bool = True) -> Compressor:
        return replace(self, compressor=self.compressor.tiled(per_tile, separators))

    def compress(self, images: ImageBatch, also: tuple[Need, ...] = ()) -> Compressed:
        return self.compressor.compress(_FallbackImages(self, images), also)

    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        return self.compressor.plan(patches, depth)

    def asked(self, need: Need) -> tuple[Need, ...]:
        """What the tower is asked instead."""
        match need:
            case ClsRows(layers):
                known = resolve_layers(layers, len(self.layers), self.feature_layer)
                return tuple(ReceivedRows(self.layers[layer]) for layer in known)
            case ReceivedRows(layer):
                return (ReceivedRows(self.layers[resolve_layer(layer, len(self.layers))]),)
        return (need,)

    def answer(self, need: Need, trace: Trace) -> Tensor:
        """What the compressor is told."""
        parts = [trace[part] for part in self.asked(need)]
        return torch.stack(parts, 1) if isinstance(need, ClsRows) else parts[0]


class _FallbackImages(ImageBatch):
    """Images that answer needs about attention as the fallback says."""

    def __init__(self, fallback: Fallback, images: ImageBatch) -> None:
        self.fallback, self.images, self.arrangement = fallback, images, images.arrangement

    def encode(self, needs: Sequence[Need]) -> tuple[Tensor, Trace]:
        parts = dict.fromkeys(part for need in needs for part in self.fallback.asked(need))
        sources, trace = self.images.encode(tuple(parts))
        told = {need: self.fallback.answer(need, trace) for need in needs}
        return sources, replace(trace, values={**trace.values, **told})

    def project(self, features: Float[Tensor, "image token width"]) -> Float[Tensor, "image token dim"]:
        return self.images.project(features)

    def reduced(self, reduction: Reduction, keep: int) -> tuple[Float[Tensor, "image token dim"], Compression]:
        return self.images.reduced(reduction, keep)
