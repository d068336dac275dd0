"""The images of a question about several images, for which the vision tower runs each time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from foveate.compressors import Compressor
from foveate.compressors.base import compressed_by
from foveate.core.arrangement import Arrangement
from foveate.core.compression import Compressed
from foveate.core.contracts import AroundImages
from foveate.core.needs import EvidenceShare, Need
from foveate.core.trace import Trace
from foveate.data.sample import VQASample
from foveate.models.backbone.adapter import ImageInputs
from foveate.models.backbone.grouping import in_groups
from foveate.models.loading.load import LoadedModel
from foveate.models.runtime.images import live_by_shape, texts_of


@dataclass(frozen=True, eq=False)
class SeveralImages:
    """The images of one question, as the model's own image processor prepares those of one prompt.

    Attributes:
        loaded: The model.
        inputs: The model inputs of the images.
        arrangements: Their arrangements.
    """

    loaded: LoadedModel
    inputs: ImageInputs
    arrangements: tuple[Arrangement, ...]

    @classmethod
    def of(cls, loaded: LoadedModel, sample: VQASample) -> "SeveralImages":
        """Opens and prepares the images of a question.

        Raises:
            DataError: An image cannot be decoded, or the image processor refuses it.
        """
        opened = [source.open() for source in sample.sources]
        inputs, arrangements = loaded.image_inputs(opened, [len(opened)])
        return cls(loaded, inputs, tuple(arrangements))

    @property
    def patches(self) -> int:
        """Number of patches of all images."""
        return sum(image.patches for image in self.arrangements)

    def compressed(self, compressor: Compressor, prompt: Sequence[int]) -> Compressed:
        """Returns what a compressor makes of the images, as it does attached to the model: one row per image.

        Args:
            compressor: The compressor.
            prompt: The uncompressed prompt.
        """
        adapter, side = self.loaded.adapter, self.loaded.text_side
        texts = partial(texts_of, adapter, side, [prompt], [len(self.arrangements)])
        groups, live = live_by_shape(adapter, self.inputs, self.arrangements, texts, side.companion)
        compress = partial(compressed_by, compressor, extra_needs=adapter.extra_needs)
        return in_groups(lambda images: compress(_WithoutEvidence(images)), groups, live)

    def kept(self, compressed: Compressed) -> Tensor:
        """Returns the kept patches of all images; those of the second are numbered after those of the first."""
        starts = torch.tensor([0, *(image.patches for image in self.arrangements)]).cumsum(0).tolist()
        own = zip(compressed.decision.compression.kept, starts[:-1], strict=True)
        return torch.cat([kept.cpu() + start for kept, start in own])


class _WithoutEvidence(AroundImages):
    """Images of which no evidence is known."""

    def encode(self, needs: Sequence[Need]) -> tuple[Tensor, Trace]:
        sources, trace = self.images.encode([need for need in needs if not isinstance(need, EvidenceShare)])
        nothing = sources.new_zeros(len(sources), 0, trace.patches)
        unknown = {need: nothing for need in needs if isinstance(need, EvidenceShare)}
        return sources, replace(trace, values={**trace.values, **unknown})
