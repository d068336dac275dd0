"""What a scorer may ask of a model. A need is a value, and the key under which the answer lies in the `Trace`."""

from dataclasses import dataclass
from typing import ClassVar

from foveate.core.errors import LayerError


@dataclass(frozen=True)
class Need:
    """One thing to record.

    `per_question` says whether the answer depends on the question; if not, all questions about an image share the
    compressed image and the keys and values that the language model computes for it.
    """

    per_question: ClassVar[bool] = False


@dataclass(frozen=True)
class LayersFrom:
    """Layers `start` up to and including the one that writes the features the language model is given."""

    start: int


Layers = tuple[int, ...] | LayersFrom


@dataclass(frozen=True)
class ClsRows(Need):
    """Softmax rows of the [CLS] query over the patches: Float[batch layer head patch], float32.

    The [CLS] column is left out and the rest not renormalised.
    """

    layers: Layers


@dataclass(frozen=True)
class Fingerprint(Need):
    """A number that depends on the picture alone: Int[batch]. Seeds whatever is random per picture."""


@dataclass(frozen=True)
class EvidenceShare(Need):
    """Share of each patch that shows each thing the question needs: Float[batch thing patch].

    Only annotated data has it. Questions that need fewer things have rows of zeros.
    """

    per_question: ClassVar[bool] = True


def resolve_layers(layers: Layers, depth: int, feature_layer: int) -> tuple[int, ...]:
    """Non-negative layer numbers.

    Args:
        layers: As a scorer names them; negative numbers count from the end.
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


def resolve_layer(layer: int, depth: int) -> int:
    """The non-negative number of one layer; see `resolve_layers`."""
    if not -depth <= layer < depth:
        raise LayerError(f"layer {layer}: this tower has {depth} layers, choose 0..{depth - 1} or -{depth}..-1")
    return layer % depth
