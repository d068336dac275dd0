"""The program: the decision of a compressor as a module of torch, exported with a batch axis of any length."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from foveate.compressors import Compressor
from foveate.core.errors import ExportError, message_of
from foveate.core.trace import EXTRA, PADDING
from foveate.export.inputs import Recorded, TensorImages
from foveate.functional.ranking import in_raster_order

KEPT, TOKENS, ORIGINS = "kept", "tokens", "origins"
_EXAMPLES = 2  # images of an export; with one, torch would fix the length of the batch axis


@dataclass(frozen=True)
class Counts:
    """Numbers of an image that are known before its scores are.

    Attributes:
        kept: Number of kept patches; with a merger that fills the budget with zeros, the greatest number.
        tokens: Number of visual tokens.
    """

    kept: int
    tokens: int


class Program(nn.Module):
    """The decision of a compressor, from tensors to tensors.

    Args:
        compressor: The compressor.
        example: What it reads; shapes other than the number of images are those of the program.
        counts: The numbers of kept patches and tokens.
    """

    def __init__(self, compressor: Compressor, example: Recorded, counts: Counts) -> None:
        super().__init__()
        self.compressor, self.counts = compressor, counts
        self.names, self.arrangement = example.names, example.arrangement

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the kept patches, and merged tokens with their origins if the compressor merges."""
        images = TensorImages(inputs, self.names, self.arrangement)
        sources, decision = self.compressor.decide(images)
        compression = decision.compression
        origin = compression.origin[:, : self.counts.tokens]
        patches = origin.masked_fill(origin < 0, PADDING)
        found = {KEPT: in_raster_order(patches, self.arrangement.patches)[:, : self.counts.kept]}
        if compression.mixing is not None:
            found |= {TOKENS: compression.apply(sources)[:, : self.counts.tokens], ORIGINS: origin}
        return found


def counts_of(compressor: Compressor, example: Recorded) -> Counts:
    """Returns the numbers of kept patches and tokens of every image.

    Raises:
        ExportError: The numbers in the plan are not those of the images.
    """
    compression, patches = example.decision.compression, example.arrangement.patches
    tokens = round(compressor.plan(patches, 1)[0])
    if compression.origin.shape[1] != tokens or bool((compression.origin == PADDING).any()):
        raise ExportError(
            f"its plan has {tokens} tokens for an image of {patches} patches, but these images have "
            f"{compression.count.tolist()}: the number is not known before the scores are"
        )
    patch = compression.origin >= 0
    if compression.mixing is not None:
        patch |= (compression.origin == EXTRA) & (compression.mixing == 0).all(2)  # where a merger filled the budget
    return Counts(int(patch.sum(1).max()), tokens)


def exported(program: Program, inputs: Mapping[str, Tensor]) -> ExportedProgram:
    """Returns the program as a graph of torch operations; the first axis of all inputs has any length.

    Args:
        program: The program.
        inputs: Inputs for at least two images.

    Raises:
        ExportError: torch cannot express the program without branches on values.
    """
    some = {name: value[:_EXAMPLES] for name, value in inputs.items()}
    batch = Dim("batch")
    try:
        with torch.no_grad():
            made = torch.export.export(program, (some,), dynamic_shapes=({name: {0: batch} for name in some},))
    except Exception as error:  # of any kind: torch runs the code of plug-ins
        raise ExportError(f"torch.export cannot express it: {message_of(error)}") from error
    for node in made.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine do not belong in the file
    return made
