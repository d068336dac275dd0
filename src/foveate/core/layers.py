"""Layers of the vision tower and blocks of the language model: numbers, suffixes, and numbers that scale with depth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsFloat

from foveate.core.errors import LayerError
from foveate.core.values import Value, whole


@dataclass(frozen=True)
class LayersFrom(Value):
    """The layers from `start` to the layer that writes the features, both included."""

    start: int


Layers = tuple[int, ...] | LayersFrom


class AtDepth(int):
    """A layer of a vision tower, written as the layer in a tower of a known depth.

    It is an int, that layer, which a recipe uses if it is called without a model. As the default of an option it is
    replaced by the layer at the same share of a model's depth (see `foveate.methods.fitting`).

    Attributes:
        of: Number of layers of the known tower.
        offset: The number minus the 0-based number; 1 where the authors count from 1.
    """

    of: int
    offset: int

    def __new__(cls, layer: int, of: int, offset: int = 0) -> "AtDepth":
        made = super().__new__(cls, layer)
        made.of, made.offset = of, offset
        return made

    def __reduce__(self) -> tuple[type, tuple[int, int, int]]:
        return type(self), (int(self), self.of, self.offset)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({int(self)}, of={self.of})"

    def in_tower(self, depth: int) -> int:
        """Returns the number of this layer, at least 1, in a tower of `depth` layers."""
        return max(1, round((self - self.offset) * (depth - 1) / (self.of - 1)) + self.offset)


class BlockAtDepth(AtDepth):
    """A block of the language model before which tokens go, written as the block in a model of a known depth.

    Attributes:
        of: Number of blocks of the known model.
        offset: The number minus that of the block before which tokens go; -1 if they go after the block.
    """

    @classmethod
    def each(cls, *blocks: int, of: int, after: bool = False) -> "tuple[BlockAtDepth, ...]":
        """Returns several blocks of one model; with `after` tokens go after them."""
        return tuple(cls(block, of, -1 if after else 0) for block in blocks)


def blocks_in_decoder(blocks: Sequence[BlockAtDepth], depth: int, first_cut: int) -> tuple[int, ...]:
    """Returns the numbers of blocks in a language model: at the same shares of its depth, and all different.

    Args:
        blocks: The blocks, ascending.
        depth: Number of blocks of the language model.
        first_cut: The first block before which tokens may go.
    """
    found: list[int] = []
    for left, block in zip(range(len(blocks), 0, -1), blocks, strict=True):
        lowest = found[-1] + 1 if found else first_cut + block.offset
        highest = depth - left + block.offset
        found.append(max(lowest, min(highest, round(block * depth / block.of))))
    return tuple(found)


def resolve_layers(layers: Layers, depth: int, feature_layer: int) -> tuple[int, ...]:
    """Returns layers as non-negative numbers.

    Args:
        layers: Layers as a scorer names them; negative numbers count from the end.
        depth: Number of layers of the tower.
        feature_layer: The layer (0-based) that writes the features.

    Raises:
        LayerError: A layer does not exist, or a `LayersFrom` starts after the feature layer.
    """
    if isinstance(layers, LayersFrom):
        start = resolve_layer(layers.start, depth)
        if start > feature_layer:
            raise LayerError(
                f"layers from {layers.start}: this tower's features are written by layer {feature_layer}; "
                f"start at 0..{feature_layer}"
            )
        return tuple(range(start, feature_layer + 1))
    return tuple(resolve_layer(layer, depth) for layer in layers)


def resolve_layer(layer: SupportsFloat, depth: int, owner: str = "tower") -> int:
    """Returns a layer as a non-negative number.

    Args:
        layer: The layer; negative numbers count from the end.
        depth: Number of layers.
        owner: Name of the part of the model that has the layers, for the error.

    Raises:
        LayerError: The layer does not exist.
    """
    layer = whole("layer", layer)
    if not -depth <= layer < depth:
        raise LayerError(f"layer {layer}: this {owner} has {depth} layers, choose 0..{depth - 1} or -{depth}..-1")
    return layer % depth
