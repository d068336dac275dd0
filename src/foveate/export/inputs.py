"""Input tensors of a program, in place of the images of a model."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.compressors import Compressor
from foveate.core.arrangement import Arrangement
from foveate.core.compression import Compression, Decision
from foveate.core.contracts import AroundImages, ImageBatch, Reduction
from foveate.core.errors import ExportError
from foveate.core.needs import Features, Need, PixelStatistic
from foveate.core.trace import Trace

FEATURES, PROJECTED = "features", "projected"


@dataclass(frozen=True, eq=False)
class Recorded:
    """The inputs that a compressor reads for some images, and what it decides.

    Attributes:
        inputs: The tensors by the names that they have in a program, float32.
        names: The name of the answer to each need.
        arrangement: The arrangement of the images.
        decision: The decision.
    """

    inputs: Mapping[str, Tensor]
    names: Mapping[Need, str]
    arrangement: Arrangement
    decision: Decision


def recorded(compressor: Compressor, images: ImageBatch) -> Recorded:
    """Returns what a compressor reads when it chooses among the patches of images, and its decision."""
    recording = _Recording(images)
    with torch.no_grad():
        sources, decision = compressor.decide(recording)
    inputs, mixing = recording.inputs, decision.compression.mixing
    if mixing is not None and not recording.merges_projected:
        inputs[FEATURES] = sources[:, : mixing.shape[2]]
    if not inputs:  # the choice depends on the grid alone; the program learns the number of images from the features
        inputs[FEATURES] = sources[:, : images.arrangement.patches]
    floats = {name: inputs[name].float().contiguous() for name in sorted(inputs)}
    return Recorded(floats, recording.names, images.arrangement, decision)


class TensorImages(ImageBatch):
    """A batch of images given as the input tensors of a program.

    Args:
        inputs: The tensors by name.
        names: The name of the answer to each need.
        arrangement: The arrangement of the images.
    """

    def __init__(self, inputs: Mapping[str, Tensor], names: Mapping[Need, str], arrangement: Arrangement) -> None:
        self.inputs, self.names, self.arrangement = inputs, names, arrangement

    def encode(self, needs: Sequence[Need]) -> tuple[Float[Tensor, "image source dim"], Trace]:
        some = next(iter(self.inputs.values()))
        batch, patches = some.shape[0], self.arrangement.patches
        values = {need: self.inputs[self.names[need]] for need in needs}
        if Features() in values:
            values[Features()] = values[Features()][:, :patches]
        sources = self.inputs.get(FEATURES, some.new_empty(batch, patches, 0))
        return sources, Trace.recorded(values, self.arrangement, batch)

    def project(self, features: Float[Tensor, "image token width"]) -> Float[Tensor, "image token dim"]:
        return self.inputs[PROJECTED]

    def reduced(self, reduction: Reduction, keep: int) -> tuple[Float[Tensor, "image token dim"], Compression]:
        raise ExportError(f"{reduction} works between the blocks of the vision tower, which a program does not hold")


class _Recording(AroundImages):
    """Images that keep what a compressor reads."""

    def __init__(self, images: ImageBatch) -> None:
        super().__init__(images)
        self.inputs: dict[str, Tensor] = {}
        self.names: dict[Need, str] = {}
        self.merges_projected = False

    def encode(self, needs: Sequence[Need]) -> tuple[Float[Tensor, "image source dim"], Trace]:
        sources, trace = self.images.encode(needs)
        self.names = _named(needs)
        self.inputs |= {self.names[need]: trace[need] for need in needs}
        return sources, trace

    def project(self, features: Float[Tensor, "image token width"]) -> Float[Tensor, "image token dim"]:
        self.merges_projected = True
        self.inputs[PROJECTED] = self.images.project(features)
        return self.inputs[PROJECTED]


def _named(needs: Sequence[Need]) -> dict[Need, str]:
    """Returns a name for each need; a second need of one class gets the number 2."""
    names: dict[Need, str] = {}
    for need in needs:
        name = _name_of(need)
        count = sum(name == _name_of(other) for other in names) + 1
        names[need] = name if count == 1 else f"{name}_{count}"
    return names


def _name_of(need: Need) -> str:
    match need:
        case Features(projected):
            return PROJECTED if projected else FEATURES
        case PixelStatistic(name):
            return name
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(need).__name__).lower()
