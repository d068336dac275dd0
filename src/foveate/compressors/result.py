"""The result of an attached compressor."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from foveate.compressors.kept_file import content_of, write
from foveate.core.arrangement import Arrangement
from foveate.core.compression import Compressed, Decision
from foveate.core.token_account import TokenAccount, account

if TYPE_CHECKING:  # transformers takes seconds to import
    import foveate.models.backbone.decoder
    import foveate.models.runtime.pruning

_Call = tuple[Compressed, "foveate.models.backbone.decoder.Layout", "foveate.models.runtime.pruning.Pruning"]


class Result:
    """Decisions of an attached compressor in the model's latest call.

    Args:
        recipe: The `repr` of the compressor, which `save` writes.
    """

    def __init__(self, recipe: str) -> None:
        self.recipe = recipe
        self._latest: _Call | None = None

    @property
    def kept(self) -> list[Int[Tensor, " kept"]]:
        """For each image, the patches that are kept after all cuts, ascending."""
        compressed, layout, pruning = self._call
        if not pruning.decisions:
            return compressed.decision.compression.kept
        return [
            prompt[(prompt >= start) & (prompt < start + patches)] - start
            for prompt, images in zip(pruning.decisions[-1].compression.kept, layout.prompts, strict=True)
            for start, patches in _spans(images)
        ]

    @property
    def scores(self) -> Float[Tensor, "image patch"]:
        """Scores of the last cut; NaN for patches that were dropped before it and for padding."""
        compressed, layout, pruning = self._call
        if not pruning.decisions:
            return compressed.decision.scores
        rows = [
            scores[start : start + patches]
            for scores, images in zip(pruning.decisions[-1].scores, layout.prompts, strict=True)
            for start, patches in _spans(images)
        ]
        return pad_sequence(rows, batch_first=True, padding_value=torch.nan)

    @property
    def decisions(self) -> list[Decision]:
        """All decisions: that of the vision side per image, then those of the cuts per prompt."""
        compressed, _, pruning = self._call
        return [compressed.decision, *pruning.decisions]

    @property
    def tokens(self) -> TokenAccount:
        """Numbers of visual tokens of each prompt at each block."""
        return account(self._call[2].per_block)

    def save(self, path: str | Path) -> None:
        """Writes the kept, merged and dropped patches of each image, scores and sources as JSON.

        https://github.com/foveate/foveate/blob/main/docs/reference/kept_file.md has the schema. The file is
        complete or not written at all; an older file of that
        name is replaced.

        Args:
            path: Path of the file, such as "kept.json".

        Raises:
            OutputError: The file cannot be written.
            LookupError: The model has not been called yet.
        """
        write(Path(path), self.content)

    @property
    def content(self) -> dict[str, Any]:
        """The content of the file that `save` writes."""
        compressed, layout, pruning = self._call
        return content_of(self.recipe, compressed.decision.compression, layout, pruning, self.scores)

    def note(
        self,
        compressed: Compressed,
        layout: "foveate.models.backbone.decoder.Layout",
        pruning: "foveate.models.runtime.pruning.Pruning",
    ) -> None:
        """Stores the latest call; called by the attachment."""
        self._latest = compressed, layout, pruning

    @property
    def _call(self) -> _Call:
        if self._latest is None:
            raise LookupError("there is no result yet: call the model with an image inside the `with`")
        return self._latest


def _spans(images: Sequence[Arrangement]) -> list[tuple[int, int]]:
    """Returns the first patch and the number of patches of each image of a prompt."""
    counts = [image.patches for image in images]
    return list(zip(accumulate(counts, initial=0), counts, strict=False))
