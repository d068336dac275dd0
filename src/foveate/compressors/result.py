"""What an attached compressor did."""

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from foveate.core.arrangement import Arrangement
from foveate.core.compression import Compressed, Decision
from foveate.core.token_account import TokenAccount, account

if TYPE_CHECKING:  # transformers takes seconds to import
    import foveate.models.backbone.decoder
    import foveate.models.runtime.pruning

_Call = tuple[Compressed, "foveate.models.backbone.decoder.Layout", "foveate.models.runtime.pruning.Pruning"]


class Result:
    """What an attached compressor decided in the model's latest call."""

    def __init__(self) -> None:
        self._latest: _Call | None = None

    @property
    def kept(self) -> list[Int[Tensor, " kept"]]:
        """For each image the patches whose places remain to the end, ascending."""
        compressed, layout, pruning = self._call
        if not pruning.decisions:
            return compressed.decision.compression.kept
        return [
            prompt[(prompt >= start) & (prompt < start + patches)] - start
            for prompt, images in zip(pruning.decisions[-1].compression.kept, layout.prompts, strict=True)
            for start, patches in _stretches(images)
        ]

    @property
    def scores(self) -> Float[Tensor, "image patch"]:
        """The scores of the last cut; NaN for a patch that was gone before it, or that a smaller image lacks."""
        compressed, layout, pruning = self._call
        if not pruning.decisions:
            return compressed.decision.scores
        rows = [
            scores[start : start + patches]
            for scores, images in zip(pruning.decisions[-1].scores, layout.prompts, strict=True)
            for start, patches in _stretches(images)
        ]
        return pad_sequence(rows, batch_first=True, padding_value=torch.nan)

    @property
    def decisions(self) -> list[Decision]:
        """What every cut decided: first the vision side per image, then the cuts per prompt."""
        compressed, _, pruning = self._call
        return [compressed.decision, *pruning.decisions]

    @property
    def tokens(self) -> TokenAccount:
        """Visual tokens of each prompt, block by block."""
        return account(self._call[2].per_block)

    def note(
        self,
        compressed: Compressed,
        layout: "foveate.models.backbone.decoder.Layout",
        pruning: "foveate.models.runtime.pruning.Pruning",
    ) -> None:
        """Called by the model's adapter."""
        self._latest = compressed, layout, pruning

    @property
    def _call(self) -> _Call:
        if self._latest is None:
            raise LookupError("nothing was compressed yet: call the model with an image inside the `with`")
        return self._latest


def _stretches(images: Sequence[Arrangement]) -> list[tuple[int, int]]:
    """Where the patches of each image of a prompt begin, and how many they are."""
    counts = [image.patches for image in images]
    return list(zip(accumulate(counts, initial=0), counts, strict=False))
