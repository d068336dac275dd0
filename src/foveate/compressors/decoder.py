"""Compression inside the language model."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.compressors.base import (
    Compressor,
    Positions,
    check_needed,
    expected_tokens,
    split_budget,
    uncompressed,
    union,
)
from foveate.core.budget import Keep
from foveate.core.checks import checked_choice, checked_compression, checked_scores
from foveate.core.compression import Compressed, Decision
from foveate.core.contracts import Cut, ImageBatch, Merger, Scorer, Selector
from foveate.core.layers import resolve_layer
from foveate.core.needs import Need
from foveate.core.trace import Trace
from foveate.mergers import Drop
from foveate.selectors import TopK


@dataclass(frozen=True)
class DecoderCompressor(Compressor, Cut):
    """Compressor that drops visual tokens before a block of the language model.

    Attributes:
        scorer: The scorer; it may also read needs of the vision side.
        keep: Number of visual tokens of an image to keep: a count, a fraction of its patches, or None if the selector
            decides. A prompt with several images keeps that many times their number, from any of them.
        layer: The block before which tokens are dropped; blocks 0 to `layer` - 1 process all of them.
        selector: The selector.
        merger: The merger.
        positions: See `Compressor`.
    """

    scorer: Scorer
    keep: Keep | None
    layer: int
    selector: Selector = TopK()
    merger: Merger = Drop()
    positions: Positions = "original"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_needed(self.keep, self.selector)

    @property
    def needs(self) -> tuple[Need, ...]:
        return union(self.scorer, self.selector, self.merger)

    @property
    def cuts(self) -> tuple[Cut, ...]:
        return (self,)

    @property
    def static_count(self) -> bool:  # type: ignore[override] (a constant elsewhere)
        return (self.selector.static_count and not self.merger.makes_all) or self.merger.fills_budget

    def compress(self, images: ImageBatch) -> Compressed:
        return uncompressed(images)

    def cut(self, states: Float[Tensor, "batch patch dim"], trace: Trace) -> Decision:
        with torch.no_grad():
            padding = ~trace.real
            scores = checked_scores(self.scorer.score(trace), self.scorer, trace, states.device, padding)
            budget, keep = split_budget(self.keep, self.merger, trace.patches, trace.images)
            tokens = states.shape[1]
            kept = self.selector.select(scores, trace, min(keep, tokens))
            kept = checked_choice(kept, self.selector, trace, scores)
            made = self.merger.merge(states, kept, scores, trace, budget)
            return Decision(scores, checked_compression(made, self.merger, len(states), tokens, tokens, states.device))

    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        return self.planned((float(patches),) * depth, patches)

    def planned(self, blocks: tuple[float, ...], patches: int) -> tuple[float, ...]:
        layer = resolve_layer(self.layer, len(blocks), "language model")
        left = expected_tokens(self.keep, self.selector, self.merger, blocks[layer], patches)
        return (*blocks[:layer], *(left,) * (len(blocks) - layer))
