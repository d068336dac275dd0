"""Compression inside the language model, and after another one."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.compression.base import Compressor, Positions, budget, check_needed, selectable, union, whole
from foveate.core.budget import Keep
from foveate.core.checks import checked_choice, checked_compression, checked_scores
from foveate.core.contracts import Cut, Merger, Pictures, Scorer, Selector
from foveate.core.errors import FoveateError
from foveate.core.needs import Need, resolve_layer
from foveate.core.types import PADDING, Compressed, Decision, Trace
from foveate.mergers import Drop
from foveate.selectors import TopK


@dataclass(frozen=True)
class PromptCompressor(Compressor, Cut):
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
    def stages(self) -> tuple[Cut, ...]:
        return (self,)

    def compress(self, pictures: Pictures, also: tuple[Need, ...] = ()) -> Compressed:
        return whole(pictures, (*early(self.needs), *also))

    def cut(self, states: Float[Tensor, "batch patch dim"], trace: Trace) -> Decision:
        with torch.no_grad():
            padding = trace.places == PADDING
            scores = checked_scores(self.scorer.score(trace), self.scorer, trace, states.device, padding)
            keep = selectable(self.keep, self.merger, trace.patches)
            kept = self.selector.select(scores, trace, min(keep, states.shape[1]))
            made = self.merger.merge(states, checked_choice(kept, self.selector, trace, scores), scores, trace)
            tokens = states.shape[1]
            return Decision(scores, checked_compression(made, self.merger, len(states), tokens, tokens, states.device))

    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        return self.planned((float(patches),) * depth, patches)

    def planned(self, blocks: tuple[float, ...], patches: int) -> tuple[float, ...]:
        """What this stage makes of the visual tokens expected at each block without it."""
        layer = resolve_layer(self.layer, len(blocks), "language model")
        kept = self.selector.expected(selectable(self.keep, self.merger, patches), blocks[layer], patches)
        made = self.merger.reserved(budget(self.keep, patches)) + self.merger.extra(round(blocks[layer] - kept))
        left = kept + made
        return (*blocks[:layer], *(float(left),) * (len(blocks) - layer))


@dataclass(frozen=True)
class Pipeline(Compressor):
    """Several compressors after each other: at most one on the vision side, then cuts inside the language model.

    Attributes:
        parts: In their order; pipelines among them stand for their parts.
        positions: Of the vision side; as its own.
    """

    parts: tuple[Compressor, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        flat = tuple(inner for part in self.parts for inner in (part.parts if isinstance(part, Pipeline) else (part,)))
        object.__setattr__(self, "parts", flat)
        if not self.parts or any(part.stages != (part,) for part in self.parts[1:]):
            raise FoveateError(
                f"Pipeline{tuple(type(part).__name__ for part in self.parts)}: expected one compressor of any kind, "
                "then those that cut inside the language model"
            )

    def tiled(self, per_tile: bool = False, separators: bool = True) -> Compressor:
        return Pipeline((self.parts[0].tiled(per_tile, separators), *self.parts[1:]))

    @property
    def positions(self) -> Positions:  # type: ignore[override] (a field of the others, here its first part's)
        return "repacked" if self.parts[0].repack and not self.parts[0].stages else "original"

    @property
    def needs(self) -> tuple[Need, ...]:
        return tuple(dict.fromkeys(need for part in self.parts for need in part.needs))

    @property
    def stages(self) -> tuple[Cut, ...]:
        return tuple(stage for part in self.parts for stage in part.stages)

    def compress(self, pictures: Pictures, also: tuple[Need, ...] = ()) -> Compressed:
        later = early(tuple(need for part in self.parts[1:] for need in part.needs))
        return self.parts[0].compress(pictures, (*later, *also))

    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        blocks = self.parts[0].plan(patches, depth)
        for cut in (cut for part in self.parts[1:] for cut in part.stages):
            blocks = cut.planned(blocks, patches)
        return blocks


def early(needs: tuple[Need, ...]) -> tuple[Need, ...]:
    """Those that are answered before the language model runs."""
    return tuple(need for need in needs if not need.in_decoder)
