"""What an attached compressor did."""

from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.types import Compressed, Decision
from foveate.cost.tokens import TokenAccount, account
from foveate.models.cutting import Cutting
from foveate.models.decoder import Layout


class Run:
    """What an attached compressor decided in the model's latest call."""

    def __init__(self) -> None:
        self._latest: tuple[Compressed, Layout, Cutting] | None = None

    @property
    def kept(self) -> list[Int[Tensor, " kept"]]:
        """For each image the patches whose places remain to the end, ascending."""
        compressed, layout, cuts = self._call
        if not cuts.decisions:
            return compressed.decision.compression.kept
        patches, last = cuts.grid.patches, cuts.decisions[-1].compression.kept
        images = layout.images.tolist()
        return [
            prompt[prompt // patches == image] % patches
            for prompt, count in zip(last, images, strict=True)
            for image in range(count)
        ]

    @property
    def scores(self) -> Float[Tensor, "image patch"]:
        """The scores of the last stage; NaN for a patch that was gone before it."""
        compressed, _, cuts = self._call
        if not cuts.decisions:
            return compressed.decision.scores
        return cuts.decisions[-1].scores.unflatten(1, (-1, cuts.grid.patches)).flatten(0, 1)

    @property
    def decisions(self) -> list[Decision]:
        """What every stage decided: first the vision side per image, then the cuts per prompt."""
        compressed, _, cuts = self._call
        return [compressed.decision, *cuts.decisions]

    @property
    def tokens(self) -> TokenAccount:
        """Visual tokens of each prompt, block by block."""
        return account(self._call[2].per_block)

    def note(self, compressed: Compressed, layout: Layout, cuts: Cutting) -> None:
        """Called by the model's adapter."""
        self._latest = compressed, layout, cuts

    @property
    def _call(self) -> tuple[Compressed, Layout, Cutting]:
        if self._latest is None:
            raise LookupError("nothing was compressed yet: call the model with an image inside the `with`")
        return self._latest
