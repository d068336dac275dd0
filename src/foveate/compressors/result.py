"""What an attached compressor did."""

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from foveate.core.types import Arrangement, Compressed, Decision
from foveate.cost.tokens import TokenAccount, account

if TYPE_CHECKING:  # transformers takes seconds to import
    import foveate.models.cutting
    import foveate.models.decoder

_Call = tuple[Compressed, "foveate.models.decoder.Layout", "foveate.models.cutting.Cutting"]


class Run:
    """What an attached compressor decided in the model's latest call."""

    def __init__(self) -> None:
        self._latest: _Call | None = None

    @property
    def kept(self) -> list[Int[Tensor, " kept"]]:
        """For each image the patches whose places remain to the end, ascending."""
        compressed, layout, cuts = self._call
        if not cuts.decisions:
            return compressed.decision.compression.kept
        return [
            prompt[(prompt >= start) & (prompt < start + patches)] - start
            for prompt, images in zip(cuts.decisions[-1].compression.kept, layout.prompts, strict=True)
            for start, patches in _stretches(images)
        ]

    @property
    def scores(self) -> Float[Tensor, "image patch"]:
        """The scores of the last stage; NaN for a patch that was gone before it, or that a smaller image lacks."""
        compressed, layout, cuts = self._call
        if not cuts.decisions:
            return compressed.decision.scores
        rows = [
            scores[start : start + patches]
            for scores, images in zip(cuts.decisions[-1].scores, layout.prompts, strict=True)
            for start, patches in _stretches(images)
        ]
        return pad_sequence(rows, batch_first=True, padding_value=torch.nan)

    @property
    def decisions(self) -> list[Decision]:
        """What every stage decided: first the vision side per image, then the cuts per prompt."""
        compressed, _, cuts = self._call
        return [compressed.decision, *cuts.decisions]

    @property
    def tokens(self) -> TokenAccount:
        """Visual tokens of each prompt, block by block."""
        return account(self._call[2].per_block)

    def note(
        self, compressed: Compressed, layout: "foveate.models.decoder.Layout", cuts: "foveate.models.cutting.Cutting"
    ) -> None:
        """Called by the model's adapter."""
        self._latest = compressed, layout, cuts

    @property
    def _call(self) -> _Call:
        if self._latest is None:
            raise LookupError("nothing was compressed yet: call the model with an image inside the `with`")
        return self._latest


def _stretches(images: Sequence[Arrangement]) -> list[tuple[int, int]]:
    """Where the patches of each image of a prompt begin, and how many they are."""
    counts = [image.patches for image in images]
    return list(zip(accumulate(counts, initial=0), counts, strict=False))
