"""Compression between the vision tower and the language model."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

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
    """Compressor that drops or merges patches after the vision tower.

    Attributes:
        scorer: The scorer.
        keep: Number of tokens to keep: a count, a fraction of an image's patches, or None if the selector decides.
        selector: The selector.
        merger: The merger.
        merge_projected: Whether patches are merged after the projector instead of before it.
        positions: See `Compressor`; the original LLaVA code repacks. Positions with three axes are always kept.
        separators: Whether separators stay, such as those at the end of a row in LLaVA-NeXT; they count as visual
            tokens beyond `keep`.
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
            raise UnsupportedNeed(f"{late[0]} is answered inside the language model only: use a DecoderCompressor")

    @property
    def needs(self) -> tuple[Need, ...]:
        return union(self.scorer, self.selector, self.merger)

    def tiled(self, per_tile: bool = False, separators: bool = True, own_positions: bool = False) -> Compressor:
        selector = PerTile(self.selector) if per_tile else self.selector
        positions: Positions = "original" if own_positions else self.positions
        return replace(self, selector=selector, separators=separators, positions=positions)

    @property
    def static_count(self) -> bool:  # type: ignore[override] (a constant elsewhere)
        return (self.selector.static_count and not self.merger.makes_all) or self.merger.fills_budget

    def compress(self, images: ImageBatch) -> Compressed:
        sources, decision = self.decide(images)
        tokens = decision.compression.apply(sources)
        tokens = tokens if self.merge_projected else images.project(tokens)
        return Compressed.of(tokens, decision, images.arrangement, self.separators)

    def decide(self, images: ImageBatch) -> tuple[Tensor, Decision]:
        sources, trace = images.encode(self.needs)
        budget, keep = split_budget(self.keep, self.merger, trace.patches)
        if self.merge_projected:
            sources = images.project(sources[:, : trace.patches])
        with torch.no_grad():  # gradients flow through the tokens, not through the choice
            scores = checked_scores(self.scorer.score(trace), self.scorer, trace, sources.device)
            kept = checked_choice(self.selector.select(scores, trace, keep), self.selector, trace, scores)
            made = self.merger.merge(sources, kept, scores, trace, budget)
            compression = checked_compression(
                made, self.merger, scores.shape[0], scores.shape[1], sources.shape[1], sources.device
            )
        return sources, Decision(scores, compression)

    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        return (expected_tokens(self.keep, self.selector, self.merger, patches, patches),) * depth
