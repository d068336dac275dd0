"""Fallbacks for towers without [CLS] or a pooling head, or whose layers see only windows of the image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foveate.compressors.around import AroundCompressor
from foveate.core.compression import Compressed, Decision
from foveate.core.contracts import AroundCut, AroundImages, Cut, ImageBatch
from foveate.core.layers import resolve_layer, resolve_layers
from foveate.core.needs import ClsRows, Features, FrameVectors, Need, PoolingRows, ReceivedRows
from foveate.core.trace import Trace


@dataclass(frozen=True)
class Fallback(AroundCompressor):
    """A compressor that reads received attention wherever it would read rows of [CLS] or of a pooling head.

    The mean of a frame's projected features replaces the output of a pooling head. A layer that sees only windows of
    the image is replaced by another one. LLaVA-OneVision ports of [CLS] methods use the same fallback (arXiv
    2412.01818, VisPruner).

    Attributes:
        compressor: The compressor; its scorer, selector and merger are unchanged.
        layers: For each layer of the tower, the layer whose received attention is read.
        feature_layer: The tower's layer that writes the features.
        pools: Whether the tower answers the needs of a pooling head itself.
    """

    layers: tuple[int, ...]
    feature_layer: int
    pools: bool = False

    @property
    def needs(self) -> tuple[Need, ...]:
        return self.substitutes(self.compressor.needs)

    @property
    def cuts(self) -> tuple[Cut, ...]:
        cuts = self.compressor.cuts
        return tuple(cut if self.substitutes(cut.needs) == cut.needs else _FallbackCut(cut, self) for cut in cuts)

    def compress(self, images: ImageBatch) -> Compressed:
        return self.compressor.compress(_FallbackImages(self, images))

    def decide(self, images: ImageBatch) -> tuple[Tensor, Decision]:
        return self.compressor.decide(_FallbackImages(self, images))

    def substitutes(self, needs: Sequence[Need]) -> tuple[Need, ...]:
        """Returns the needs that the tower answers instead of these."""
        return tuple(dict.fromkeys(part for need in needs for part in self._parts(need)))

    def answered(self, needs: Sequence[Need], trace: Trace) -> Trace:
        """Returns a trace with answers to these needs, made of the answers to their substitutes."""
        answers = {}
        for need in needs:
            parts = [trace[part] for part in self._parts(need)]
            match need:
                case ClsRows():
                    answers[need] = torch.stack(parts, 1)
                case FrameVectors() if not self.pools:
                    answers[need] = parts[0].unflatten(1, (trace.frames, -1)).mean(2)
                case _:
                    answers[need] = parts[0]
        return replace(trace, values={**trace.values, **answers})

    def _parts(self, need: Need) -> tuple[Need, ...]:
        match need:
            case ClsRows(layers):
                resolved = resolve_layers(layers, len(self.layers), self.feature_layer)
                return tuple(ReceivedRows(self.layers[layer]) for layer in resolved)
            case ReceivedRows(layer):
                return (replace(need, layer=self.layers[resolve_layer(layer, len(self.layers))]),)
            case PoolingRows() if not self.pools:
                return (ReceivedRows(self.layers[self.feature_layer]),)
            case FrameVectors() if not self.pools:
                return (Features(projected=True),)
        return (need,)


@dataclass(frozen=True, repr=False)
class _FallbackCut(AroundCut):
    """A cut that reads the substitutes of its needs."""

    fallback: Fallback

    @property
    def needs(self) -> tuple[Need, ...]:
        return self.fallback.substitutes(self.inner.needs)

    def cut(self, states: Tensor, trace: Trace) -> Decision:
        return self.inner.cut(states, self.fallback.answered(self.inner.needs, trace))


class _FallbackImages(AroundImages):
    """Images that answer needs by their substitutes."""

    def __init__(self, fallback: Fallback, images: ImageBatch) -> None:
        super().__init__(images)
        self.fallback = fallback

    def encode(self, needs: Sequence[Need]) -> tuple[Tensor, Trace]:
        sources, trace = self.images.encode(self.fallback.substitutes(needs))
        return sources, self.fallback.answered(needs, trace)
