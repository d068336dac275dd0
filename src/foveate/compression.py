"""Compressors: scorer, selector and merger put together, and attached to a stock model."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveate.core.budget import Keep, resolve_keep
from foveate.core.contracts import Cut, Merger, Pictures, Plugin, Reduction, Scorer, Selector
from foveate.core.errors import BudgetError, FoveateError, UnsupportedNeed
from foveate.core.needs import Downsampled, Need, resolve_layer
from foveate.core.types import PADDING, Compressed, Compression, Decision, Grid, Trace
from foveate.cost.tokens import TokenAccount, account
from foveate.functional.geometry import nearest_grid, pooling_matrix
from foveate.functional.ranking import marked
from foveate.mergers import Drop
from foveate.models.attach import Attachment, compressing
from foveate.models.cutting import Cutting
from foveate.models.decoder import Layout
from foveate.models.load import LoadedModel, adapt
from foveate.models.pictures import TextSide
from foveate.scorers import Constant
from foveate.selectors import TopK

Positions = Literal["repacked", "original"]


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


class Compressor(ABC):
    """A whole method: what it needs to know of a picture, and which tokens it makes of it.

    A compressor is a value: frozen, equal to its like, and its `repr` identifies it in records.
    """

    positions: Positions

    @property
    @abstractmethod
    def needs(self) -> tuple[Need, ...]:
        """What is read from the trace, before the language model runs or inside it."""

    @abstractmethod
    def compress(self, pictures: Pictures) -> Compressed:
        """What the language model is given of each picture."""

    @property
    def stages(self) -> tuple[Cut, ...]:
        """Cuts inside the language model."""
        return ()

    @abstractmethod
    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        """Expected visual tokens of one image at each of the language model's `depth` blocks."""

    @property
    def repack(self) -> bool:
        """Whether the vision side numbers the remaining tokens consecutively."""
        return self.positions == "repacked"

    @property
    def per_question(self) -> bool:
        """Whether what remains of a picture may depend on the question."""
        return bool(self.stages) or any(need.per_question for need in self.needs)

    @contextmanager
    def attached(self, model: nn.Module | LoadedModel) -> Iterator[Run]:
        """While active, the stock model compresses the images it is given; afterwards it is as it was.

        Logits of `forward` are those of the shortened, left-padded prompts, which streamers and logits processors of
        `generate` are shown too; what `generate` returns, and its limits of length, count the prompt as it was given.

        Args:
            model: A stock model, or what `load` returns, which also knows the model's tokenizer and, if one was named,
                the companion that text-aware scorers need.

        Yields:
            The run, which holds `kept`, `scores` and `tokens` of the latest call.

        Raises:
            UnsupportedModel: No adapter knows the model.
            LayerError: A cut stands at a block that the language model does not have.
            UnsupportedNeed: At the first call, if the model cannot give what the scorer needs.
        """
        run = Run()
        if isinstance(model, LoadedModel):
            adapter, texts = model.adapter, model.text_side
        else:
            adapter, texts = adapt(model), TextSide()
        adapter.check(self.needs, self.stages)
        with compressing(Attachment(adapter, self.compress, self.repack, self.stages, run.note, texts)):
            yield run


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
            lets every token keep the position it had.
    """

    scorer: Scorer
    keep: Keep | None
    selector: Selector = TopK()
    merger: Merger = Drop()
    merge_projected: bool = False
    positions: Positions = "repacked"

    def __post_init__(self) -> None:
        if late := [need for need in self.needs if need.in_decoder]:
            raise UnsupportedNeed(f"{late[0]} is known only inside the language model: use a PromptCompressor")

    @property
    def needs(self) -> tuple[Need, ...]:
        return _union(self.scorer, self.selector, self.merger)

    def compress(self, pictures: Pictures) -> Compressed:
        sources, trace = pictures.encode(self.needs)
        keep = _left_to_select(self, trace.grid.patches)
        material = pictures.project(sources[:, : trace.grid.patches]) if self.merge_projected else sources
        with torch.no_grad():  # gradients flow through the tokens, not through the choice
            scores = _sound(self.scorer.score(trace), self.scorer).to(sources.device)
            kept = self.selector.select(scores, trace, keep)
            compression = self.merger.merge(material, kept, scores, trace)
        tokens = compression.apply(material)
        return Compressed(
            tokens if self.merge_projected else pictures.project(tokens), Decision(scores, compression), trace
        )

    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        keep = _left_to_select(self, patches)
        kept = self.selector.expected(keep, patches, patches)
        made = self.merger.reserved(_budget(self.keep, patches)) + self.merger.extra(round(patches - kept))
        return (float(kept + made),) * depth


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

    @property
    def needs(self) -> tuple[Need, ...]:
        return _union(self.scorer, self.selector, self.merger)

    @property
    def stages(self) -> tuple[Cut, ...]:
        return (self,)

    def compress(self, pictures: Pictures) -> Compressed:
        return _whole(pictures, _early(self.needs))

    def cut(self, states: Float[Tensor, "batch patch dim"], trace: Trace) -> Decision:
        with torch.no_grad():
            padding = trace.places == PADDING
            scores = _sound(self.scorer.score(trace).masked_fill(padding, -torch.inf), self.scorer)
            keep = _left_to_select(self, trace.patches)
            kept = self.selector.select(scores, trace, min(keep, states.shape[1]))
            return Decision(scores, self.merger.merge(states, kept, scores, trace))

    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        return self.planned((float(patches),) * depth, patches)

    def planned(self, blocks: tuple[float, ...], patches: int) -> tuple[float, ...]:
        """What this stage makes of the visual tokens expected at each block without it."""
        layer = resolve_layer(self.layer, len(blocks), "language model")
        kept = self.selector.expected(_left_to_select(self, patches), blocks[layer], patches)
        made = self.merger.reserved(_budget(self.keep, patches)) + self.merger.extra(round(blocks[layer] - kept))
        left = kept + made
        return (*blocks[:layer], *(float(left),) * (len(blocks) - layer))


@dataclass(frozen=True)
class TowerCompressor(Compressor):
    """Drops or merges tokens between the blocks of the vision tower.

    Attributes:
        reduction: What happens after which block.
        keep: How many tokens leave the tower: a count, or a fraction of an image's patches.
        positions: As in `VisionCompressor`.
    """

    reduction: Reduction
    keep: Keep
    positions: Positions = "repacked"

    @property
    def needs(self) -> tuple[Need, ...]:
        return ()

    def compress(self, pictures: Pictures) -> Compressed:
        keep = resolve_keep(self.keep, pictures.grid.patches)
        features, compression = pictures.reduced(self.reduction, keep)
        stays = marked(compression.origin, pictures.grid.patches)
        trace = Trace({}, pictures.grid, len(features))
        return Compressed(pictures.project(features), Decision(stays.float(), compression), trace)

    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        return (float(resolve_keep(self.keep, patches)),) * depth


@dataclass(frozen=True)
class Pool(Compressor):
    """Control: average pooling of the patch grid to the nearest grid of `keep` tokens."""

    keep: Keep
    positions: Positions = "repacked"

    @property
    def needs(self) -> tuple[Need, ...]:
        return ()

    def compress(self, pictures: Pictures) -> Compressed:
        sources, trace = pictures.encode(())
        compression = _pooled(trace.grid, resolve_keep(self.keep, trace.grid.patches), sources)
        return Compressed(
            pictures.project(compression.apply(sources)), Decision(_alike(trace, sources), compression), trace
        )

    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        return (float(resolve_keep(self.keep, patches)),) * depth


@dataclass(frozen=True)
class Downsample(Compressor):
    """Control: the picture itself at lower resolution, where the tower can interpolate its positions."""

    keep: Keep
    positions: Positions = "repacked"

    @property
    def needs(self) -> tuple[Need, ...]:
        return ()

    def compress(self, pictures: Pictures) -> Compressed:
        grid = pictures.grid
        keep = resolve_keep(self.keep, grid.patches)
        need = Downsampled(*nearest_grid(keep, grid.rows, grid.columns))
        _, trace = pictures.encode((need,))
        features = trace[need]
        decision = Decision(_alike(trace, features), _pooled(grid, keep, features))
        return Compressed(pictures.project(features), decision, trace)

    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        return (float(resolve_keep(self.keep, patches)),) * depth


@dataclass(frozen=True)
class Identity(Compressor):
    """Keeps every patch."""

    positions: Positions = "original"

    @property
    def needs(self) -> tuple[Need, ...]:
        return ()

    def compress(self, pictures: Pictures) -> Compressed:
        return _whole(pictures, ())

    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        return (float(patches),) * depth


@dataclass(frozen=True)
class Blind(Compressor):
    """Keeps nothing: the language model answers without the picture."""

    positions: Positions = "repacked"

    @property
    def needs(self) -> tuple[Need, ...]:
        return ()

    def compress(self, pictures: Pictures) -> Compressed:
        whole = _whole(pictures, ())
        nothing = torch.empty(len(whole.tokens), 0, dtype=torch.long, device=whole.tokens.device)
        return replace(
            whole, tokens=whole.tokens[:, :0], decision=replace(whole.decision, compression=Compression(nothing))
        )

    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        return (0.0,) * depth


@dataclass(frozen=True)
class Pipeline(Compressor):
    """Several compressors after each other: at most one on the vision side, then cuts inside the language model.

    Attributes:
        parts: In their order; pipelines among them stand for their parts.
        positions: Of the vision side; as its own.
    """

    parts: tuple[Compressor, ...]

    def __post_init__(self) -> None:
        flat = tuple(inner for part in self.parts for inner in (part.parts if isinstance(part, Pipeline) else (part,)))
        object.__setattr__(self, "parts", flat)
        if not self.parts or any(part.stages != (part,) for part in self.parts[1:]):
            raise FoveateError(
                f"Pipeline{tuple(type(part).__name__ for part in self.parts)}: expected one compressor of any kind, "
                "then those that cut inside the language model"
            )

    @property
    def positions(self) -> Positions:  # type: ignore[override]
        return "repacked" if self.parts[0].repack and not self.parts[0].stages else "original"

    @property
    def needs(self) -> tuple[Need, ...]:
        return tuple(dict.fromkeys(need for part in self.parts for need in part.needs))

    @property
    def stages(self) -> tuple[Cut, ...]:
        return tuple(stage for part in self.parts for stage in part.stages)

    def compress(self, pictures: Pictures) -> Compressed:
        carried = _early(tuple(need for part in self.parts[1:] for need in part.needs))
        compressed = self.parts[0].compress(_Asked(pictures, carried))
        missing = [need for need in carried if need not in compressed.carried.values]
        if missing:
            _, trace = pictures.encode(missing)
            values = {**compressed.carried.values, **trace.values}
            compressed = replace(compressed, carried=replace(compressed.carried, values=values))
        return compressed

    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        blocks = self.parts[0].plan(patches, depth)
        for cut in (cut for part in self.parts[1:] for cut in part.stages):
            blocks = cut.planned(blocks, patches)
        return blocks


class _Asked(Pictures):
    """Pictures that are asked for more than the compressor at hand needs, because a later one does."""

    def __init__(self, pictures: Pictures, more: tuple[Need, ...]) -> None:
        self.pictures, self.more, self.grid = pictures, more, pictures.grid

    def encode(self, needs: Sequence[Need]) -> tuple[Tensor, Trace]:
        return self.pictures.encode(tuple(dict.fromkeys((*needs, *self.more))))

    def project(self, features: Float[Tensor, "image token width"]) -> Float[Tensor, "image token dim"]:
        return self.pictures.project(features)

    def reduced(self, reduction: Reduction, keep: int) -> tuple[Float[Tensor, "image token dim"], Compression]:
        return self.pictures.reduced(reduction, keep)


def _whole(pictures: Pictures, needs: tuple[Need, ...]) -> Compressed:
    sources, trace = pictures.encode(needs)
    patches = sources[:, : trace.grid.patches]
    everything = torch.arange(trace.grid.patches, device=sources.device).expand(len(sources), -1)
    return Compressed(pictures.project(patches), Decision(_alike(trace, sources), Compression(everything)), trace)


def _pooled(grid: Grid, keep: int, features: Tensor) -> Compression:
    rows, columns = nearest_grid(keep, grid.rows, grid.columns)
    mixing = pooling_matrix(grid.rows, grid.columns, rows, columns).to(features.device)
    down, right = torch.arange(rows) * grid.rows // rows, torch.arange(columns) * grid.columns // columns
    middle = (down + grid.rows // rows // 2)[:, None] * grid.columns + right + grid.columns // columns // 2
    batch = len(features)
    return Compression(middle.flatten().to(features.device).expand(batch, -1), mixing.expand(batch, -1, -1))


def _alike(trace: Trace, features: Tensor) -> Tensor:
    return Constant().score(trace).to(features.device)


def _union(*plugins: Plugin) -> tuple[Need, ...]:
    return tuple(dict.fromkeys(need for plugin in plugins for need in plugin.needs))


def _early(needs: tuple[Need, ...]) -> tuple[Need, ...]:
    """Those that are answered before the language model runs."""
    return tuple(need for need in needs if not need.in_decoder)


def _left_to_select(compressor: VisionCompressor | PromptCompressor, patches: int) -> int:
    """The budget without what the merger makes of it."""
    keep = _budget(compressor.keep, patches)
    if (made := compressor.merger.reserved(keep)) >= keep:
        raise BudgetError(f"keep={compressor.keep}: {compressor.merger} alone makes {made} tokens, keep more than that")
    return keep - made


def _sound(scores: Tensor, scorer: Scorer) -> Tensor:
    if wrong := int(scores.isnan().sum()):
        raise FoveateError(
            f"{scorer} gave {wrong} of {scores.numel()} scores as NaN, by which nothing can be chosen: look for "
            "overflow (half precision?) or for a division by zero in the scorer"
        )
    return scores


def _budget(keep: Keep | None, patches: int) -> int:
    return patches if keep is None else resolve_keep(keep, patches)
