"""Compression before the language model: behind the vision tower, or inside it."""

from dataclasses import dataclass, replace

import torch

from foveate.compressors.base import Compressor, Positions, check_needed, expected_tokens, split_budget, union
from foveate.core.budget import Keep
from foveate.core.checks import checked_choice, checked_compression, checked_scores
from foveate.core.compression import Compressed, Decision
from foveate.core.contracts import ImageBatch, Merger, Scorer, Selector
from foveate.core.errors import UnsupportedNeed
from foveate.core.needs import Need
from foveate.mergers import Drop
from foveate.selectors import PerTile, TopK


@dataclass(frozen=True)
class VisionCompressor(Compressor):
    """Compresses what the vision tower gives to the language model.

    Attributes:
        scorer: Which patches matter.
        keep: How many to keep: a count, a fraction of an image's patches, or None where the selector decides alone.
        selector: How scores become a choice.
        merger: What becomes of the others.
        merge_projected: Merge behind the projector instead of before it.
        positions: "repacked" numbers the remaining tokens consecutively, as the original LLaVA code does; "original"
            lets every token keep the position it had. Where a position has three axes, it is always kept.
        separators: Whether tokens between patches, such as those with which LLaVA-NeXT ends a row, stay; they count as
            visual tokens, beyond `keep`.
    """

    scorer: Scorer
    keep: Keep | None
    selector: Selector = TopK()
    merger: Merger = Drop()
    merge_projected: bool = False
    positions: Positions = "repacked"
    separators: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_needed(self.keep, self.selector)
        if late := [need for need in self.needs if need.in_decoder]:
            raise UnsupportedNeed(f"{late[0]} is known only inside the language model: use a DecoderCompressor")

    @property
    def needs(self) -> tuple[Need, ...]:
        return union(self.scorer, self.selector, self.merger)

    def tiled(self, per_tile: bool = False, separators: bool = True) -> Compressor:
        selector = PerTile(self.selector) if per_tile else self.selector
        return replace(self, selector=selector, separators=separators)

    def compress(self, images: ImageBatch) -> Compressed:
        sources, trace = images.encode(self.needs)
        budget, keep = split_budget(self.keep, self.merger, trace.patches)
        material = images.project(sources[:, : trace.patches]) if self.merge_projected else sources
        with torch.no_grad():  # gradients flow through the tokens, not through the choice
            scores = checked_scores(self.scorer.score(trace), self.scorer, trace, sources.device)
            kept = checked_choice(self.selector.select(scores, trace, keep), self.selector, trace, scores)
            made = self.merger.merge(material, kept, scores, trace, budget)
            compression = checked_compression(
                made, self.merger, len(scores), scores.shape[1], material.shape[1], material.device
            )
        tokens = compression.apply(material)
        tokens = tokens if self.merge_projected else images.project(tokens)
        return Compressed.of(tokens, Decision(scores, compression), images.arrangement, self.separators)

    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        return (expected_tokens(self.keep, self.selector, self.merger, patches, patches),) * depth
