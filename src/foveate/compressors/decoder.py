"""Compression inside the language model, and after another one."""

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
from foveate.core.trace import PADDING, Trace
from foveate.mergers import Drop
from foveate.selectors import TopK


@dataclass(frozen=True)
class DecoderCompressor(Compressor, Cut):
    """Drops visual tokens inside the language model, before one of its blocks.

    Attributes:
        scorer: Which tokens matter; it may read vision-side needs too, whose answers are carried along.
        keep: How many visual tokens of a prompt to keep: a count, or a fraction of the patches that its images had.
        layer: The block before which they go; blocks 0 to `layer` - 1 see all.
        selector: How scores become a choice.
        merger: What becomes of the others.
        positions: "original" lets every token keep the position it had; "repacked" numbers them consecutively.
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

    def compress(self, images: ImageBatch) -> Compressed:
        return uncompressed(images)

    def cut(self, states: Float[Tensor, "batch patch dim"], trace: Trace) -> Decision:
        with torch.no_grad():
            padding = trace.places == PADDING
            scores = checked_scores(self.scorer.score(trace), self.scorer, trace, states.device, padding)
            budget, keep = split_budget(self.keep, self.merger, trace.patches)
            tokens = states.shape[1]
            kept = self.selector.select(scores, trace, min(keep, tokens))
            kept = checked_choice(kept, self.selector, trace, scores)
            made = self.merger.merge(states, kept, scores, trace, budget)
            return Decision(scores, checked_compression(made, self.merger, len(states), tokens, tokens, states.device))

    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        return self.planned((float(patches),) * depth, patches)

    def planned(self, blocks: tuple[float, ...], patches: int) -> tuple[float, ...]:
        """What this cut makes of the visual tokens expected at each block without it."""
        layer = resolve_layer(self.layer, len(blocks), "language model")
        left = expected_tokens(self.keep, self.selector, self.merger, blocks[layer], patches)
        return (*blocks[:layer], *(left,) * (len(blocks) - layer))
