"""The contract of compressors, and what their kinds share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from foveate.compressors.result import Result
from foveate.core.budget import Keep, resolve_keep
from foveate.core.checks import CheckedCut, checked_compressed
from foveate.core.compression import Compressed, Compression, Decision
from foveate.core.contracts import Cut, ImageBatch, Merger, Plugin, Selector
from foveate.core.errors import BudgetError, FoveateError
from foveate.core.needs import Need
from foveate.core.trace import Trace
from foveate.core.values import Value
from foveate.scorers import Constant

if TYPE_CHECKING:  # transformers takes seconds to import
    import foveate.models.loading.load

Positions = Literal["repacked", "original"]


class Compressor(Value, ABC):
    """A whole method: what it needs to know of an image, and which tokens it makes of it.

    A compressor is a value: frozen, equal to its like, and its `repr` identifies it in records.
    """

    positions: Positions

    @property
    def needs(self) -> tuple[Need, ...]:
        """What is read from the trace, before the language model runs or inside it; nothing, unless said otherwise."""
        return ()

    @abstractmethod
    def compress(self, images: ImageBatch, also: tuple[Need, ...] = ()) -> Compressed:
        """What the language model is given of each image.

        Args:
            images: The images.
            also: What later cuts read; their answers are among those that are carried.
        """

    @property
    def cuts(self) -> tuple[Cut, ...]:
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
        """Whether what remains of an image may depend on the question."""
        return bool(self.cuts) or any(need.per_question for need in self.needs)

    def tiled(self, per_tile: bool = False, separators: bool = True) -> "Compressor":
        """The same, told what to do where a model cuts its images into tiles.

        Args:
            per_tile: Whether every tile has a budget of its own (`PerTile`).
            separators: Whether the tokens between patches stay; see `VisionCompressor`.

        Raises:
            FoveateError: It does not choose patches behind the vision tower.
        """
        raise FoveateError(
            f"{self} does not choose among patches behind the vision tower, where tiles and what stands between them "
            "matter: give per_tile and no_separators to a method that does, such as vtc_cls"
        )

    @contextmanager
    def attached(self, model: "nn.Module | foveate.models.loading.load.LoadedModel") -> Iterator[Result]:
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
        from foveate.models.loading.load import LoadedModel, adapt
        from foveate.models.runtime.attach import Attachment, compressing
        from foveate.models.runtime.images import TextSide

        run = Result()
        if isinstance(model, LoadedModel):
            adapter, texts = model.adapter, model.text_side
        else:
            adapter, texts = adapt(model), TextSide()
        adapter.check(self.needs, self.cuts)
        compress, cuts = partial(compressed_by, self), checked_cuts(self)
        with compressing(Attachment(adapter, compress, self.repack, cuts, run.note, texts)):
            yield run


def compressed_by(compressor: Compressor, images: ImageBatch, also: tuple[Need, ...] = ()) -> Compressed:
    """Returns what a compressor makes of images, checked.

    Raises:
        FoveateError: It does not fit them; the message names the compressor.
    """
    return checked_compressed(compressor.compress(images, also), compressor, images)


def checked_cuts(compressor: Compressor) -> tuple[Cut, ...]:
    """The cuts of a compressor, which refuse decisions that do not fit."""
    return tuple(CheckedCut(cut) for cut in compressor.cuts)


def whole(images: ImageBatch, needs: tuple[Need, ...]) -> Compressed:
    """Every patch, and the answers to the needs."""
    sources, trace = images.encode(needs)
    patches = sources[:, : trace.patches]
    everything = torch.arange(trace.patches, device=sources.device).expand(len(sources), -1)
    decision = Decision(equal_scores(trace, sources), Compression(everything))
    return Compressed.of(images.project(patches), decision, trace.answers(needs), images.arrangement)


def equal_scores(trace: Trace, features: Tensor) -> Tensor:
    """Scores of a compressor that has none."""
    return Constant().score(trace).to(features.device)


def union(*plugins: Plugin) -> tuple[Need, ...]:
    """What several plug-ins read."""
    return tuple(dict.fromkeys(need for plugin in plugins for need in plugin.needs))


def check_needed(keep: Keep | None, selector: Selector) -> None:
    """Refuses a compressor without a budget whose selector needs one.

    Raises:
        BudgetError: Nothing would be dropped.
    """
    if keep is None and selector.needs_keep:
        raise BudgetError(f"keep=None: {selector} needs a budget: how many patches stay, as a count or a fraction")


def selectable(keep: Keep | None, merger: Merger, patches: int) -> int:
    """The budget without what the merger makes of it.

    Raises:
        BudgetError: Nothing would be left.
    """
    count = budget(keep, patches)
    if (made := merger.reserved(count)) >= count:
        raise BudgetError(f"keep={keep}: {merger} alone makes {made} tokens, keep more than that")
    return count - made


def budget(keep: Keep | None, patches: int) -> int:
    """The count; all patches where there is none."""
    return patches if keep is None else resolve_keep(keep, patches)
