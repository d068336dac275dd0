"""The contract of compressors, and functions that several compressors share."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from foveate.compressors.result import Result
from foveate.core.budget import Keep, resolve_keep
from foveate.core.checks import CheckedCut, checked_compressed
from foveate.core.compression import Compressed, Compression, Decision
from foveate.core.contracts import AroundImages, Cut, ImageBatch, Merger, Plugin, Selector
from foveate.core.errors import BudgetError, FoveateError
from foveate.core.needs import Need
from foveate.core.trace import Trace
from foveate.core.transfer import on_device
from foveate.core.values import Value
from foveate.scorers import Constant

if TYPE_CHECKING:  # transformers takes seconds to import
    import foveate.models.loading.load
    import foveate.models.runtime.prefix_cache

Positions = Literal["repacked", "original"]


class Compressor(Value, ABC):
    """A whole method: which answers it reads, and which tokens it makes of an image.

    A compressor is a value: frozen, comparable, with a `repr` that identifies it in records. One of your own defines
    `compress`; it also defines `plan` if its budget is to be aligned with that of other methods.

    Attributes:
        positions: "repacked" numbers the remaining tokens consecutively; "original" keeps their positions.
        static_count: Whether `plan` is exact: numbers of tokens depend on no score and no question.
        shared_by: Number of questions about an image that share a choice in evaluations (`FirstChoice`).
    """

    positions: Positions = "repacked"
    static_count: ClassVar[bool] = False
    shared_by: ClassVar[int] = 1

    @property
    def needs(self) -> tuple[Need, ...]:
        """Keys that the compressor reads from traces, on the vision side or in a cut; none by default."""
        return ()

    @abstractmethod
    def compress(self, images: ImageBatch) -> Compressed:
        """Returns the visual tokens of each image."""

    def decide(self, images: ImageBatch) -> tuple[Tensor, Decision]:
        """Returns the features (image, source, dim) that tokens are made of, and the decision, without the tokens.

        `foveate export` makes a program of it, so it has no branch on values.

        Raises:
            FoveateError: The compressor does not choose among patches after the vision tower.
        """
        raise FoveateError(f"{self} does not choose among patches after the vision tower: give a method that does")

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """The cuts inside the language model."""
        return ()

    def plan(self, patches: int, depth: int) -> tuple[float, ...]:
        """Returns the expected visual tokens of one image at each block of the language model.

        Args:
            patches: Number of patches of the image.
            depth: Number of blocks of the language model.

        Raises:
            FoveateError: The class does not define its plan.
        """
        raise FoveateError(
            f"{self} does not say how many visual tokens it gives to each block: define plan(patches, depth), which "
            "aligned budgets need"
        )

    @property
    def repack(self) -> bool:
        """True if the vision side numbers the remaining tokens consecutively."""
        return self.positions == "repacked"

    @property
    def per_question(self) -> bool:
        """True if the tokens of an image may depend on the question."""
        return bool(self.cuts) or any(need.per_question for need in self.needs)

    def tiled(self, per_tile: bool = False, separators: bool = True, own_positions: bool = False) -> "Compressor":
        """Returns this compressor with settings for models that cut images into tiles, and for videos.

        Args:
            per_tile: Whether every tile has a budget of its own (`PerTile`).
            separators: Whether the tokens between patches stay; see `VisionCompressor`.
            own_positions: Whether kept patches have their own positions, which tell the frame in models that know it
                from positions alone; false changes nothing.

        Raises:
            FoveateError: The compressor does not choose patches after the vision tower.
        """
        raise FoveateError(
            f"{self} does not choose among patches after the vision tower, so tiles, separators and positions there do "
            "not concern it: give per_tile, no_separators and own_positions to a method that does, such as vtc_cls"
        )

    def save(
        self, path: str | Path, model: "nn.Module | foveate.models.loading.load.LoadedModel | None" = None
    ) -> None:
        """Writes the compressor to a recipe file, which commands take in place of a method's name.

        The file appears complete or not at all; an older file of that name is replaced. Its schema:
        https://github.com/foveate/foveate/blob/main/docs/reference/recipe_file.md

        Args:
            path: Where; the name ends in ".json", and its stem is the method's name in tables.
            model: The model that the compressor was chosen for; with it, a warning says when it is used on another.

        Raises:
            RecipeError: The compressor has a class that is neither of this package nor registered by an installed one.
            OutputError: The file cannot be written.
            UnsupportedModel: No adapter serves the model.
        """
        from foveate.compressors.recipe_file import RecipeFile, chosen_for, write
        from foveate.models.loading.load import LoadedModel, adapt

        chosen = None
        if model is not None:
            chosen = chosen_for(model.adapter if isinstance(model, LoadedModel) else adapt(model))
        write(path, RecipeFile(self, Path(path).stem, chosen))

    def resized(
        self, loaded: "foveate.models.loading.load.LoadedModel"
    ) -> "tuple[foveate.models.loading.load.LoadedModel, Compressor]":
        """Returns the model for images of the size that this compressor wants, and what compresses their tokens.

        Evaluations call it before they prepare images. Most compressors take images at full size.

        Args:
            loaded: The model.
        """
        return loaded, self

    @contextmanager
    def attached(
        self,
        model: "nn.Module | foveate.models.loading.load.LoadedModel",
        prefixes: "foveate.models.runtime.prefix_cache.PrefixCache | None" = None,
    ) -> Iterator[Result]:
        """Attaches the compressor to a stock model for the duration of the context.

        Logits of `forward` are those of the shortened, left-padded prompts; streamers and logits processors of
        `generate` receive the same. The ids that `generate` returns, and its length limits, count the original prompt.

        Args:
            model: A stock model, or the result of `load`, which also has the tokenizer and, if one was named, the
                companion that text-aware scorers need.
            prefixes: Keeps what was chosen for images, and keys and values of prompts, for later questions about the
                same images; None keeps nothing.

        Yields:
            The result: `kept`, `scores` and `tokens` of the latest call.

        Raises:
            UnsupportedModel: No adapter serves the model.
            LayerError: A cut names a block that the language model does not have.
            UnsupportedNeed: At the first call, if the model cannot answer a need of the compressor.
            FoveateError: Questions share a choice (`shared_by`), which only evaluations know how to do.
        """
        from foveate.models.loading.load import LoadedModel, adapt
        from foveate.models.runtime.attach import Attachment, Method, compressing
        from foveate.models.runtime.images import TextSide
        from foveate.models.runtime.prefix_cache import Prefixes

        if self.shared_by > 1:
            raise FoveateError(f"{self}: only evaluations know which questions share a choice; attach its compressor")
        result = Result(repr(self))
        if isinstance(model, LoadedModel):
            adapter, texts = model.adapter, model.text_side
        else:
            adapter, texts = adapt(model), TextSide()
        adapter.check(self.needs, self.cuts)
        method = Method(partial(compressed_by, self), self.repack, checked_cuts(self), self.needs)
        used = None
        if prefixes is not None and not self.cuts:
            used = Prefixes(prefixes, adapter, self, self.per_question)
        with compressing(Attachment(adapter, method, result.note, texts, used)):
            yield result


class _RecordedImages(AroundImages):
    """Images that add needs to the first encoding and keep the answers."""

    def __init__(self, images: ImageBatch, needs: Iterable[Need]) -> None:
        super().__init__(images)
        self._needs = tuple(dict.fromkeys(needs))
        self._answers: Mapping[Need, Tensor] | None = None

    def encode(self, needs: Sequence[Need]) -> tuple[Tensor, Trace]:
        if self._answers is not None:
            return self.images.encode(needs)
        sources, trace = self.images.encode(tuple(dict.fromkeys((*needs, *self._needs))))
        self._answers = trace.answers(self._needs)
        return sources, trace

    @property
    def answers(self) -> Mapping[Need, Tensor]:
        """Answers to the added needs, from an encoding of their own if there was none."""
        if self._answers is None and self._needs:
            self.encode(())
        return self._answers or {}


def compressed_by(compressor: Compressor, images: ImageBatch, extra_needs: tuple[Need, ...] = ()) -> Compressed:
    """Returns what a compressor makes of images, checked, with the answers that are read after it.

    Args:
        compressor: The compressor, which need not know of these answers.
        images: The images.
        extra_needs: Needs whose answers the language model reads, such as `Deepstack`; those of cuts are added.

    Raises:
        FoveateError: The result does not fit the images; the message names the compressor.
    """
    read_by_cuts = (need for cut in compressor.cuts for need in cut.needs if not need.in_decoder)
    recorded = _RecordedImages(images, (*read_by_cuts, *extra_needs))
    made = checked_compressed(compressor.compress(recorded), compressor, images)
    return replace(made, carried=recorded.answers)


def checked_cuts(compressor: Compressor) -> tuple[Cut, ...]:
    """Returns the cuts of a compressor, each with checks of its decisions."""
    return tuple(CheckedCut(cut) for cut in compressor.cuts)


def uncompressed(images: ImageBatch) -> Compressed:
    """Returns every patch of the images, with equal scores."""
    sources, trace = images.encode(())
    patches = sources[:, : trace.patches]
    everything = torch.arange(trace.patches, device=sources.device).expand(len(sources), -1)
    decision = Decision(equal_scores(trace, sources), Compression(everything))
    return Compressed.of(images.project(patches), decision, images.arrangement)


def equal_scores(trace: Trace, features: Tensor) -> Tensor:
    """Returns equal scores for all patches, for compressors without a scorer."""
    return on_device(Constant().score(trace), features.device)


def union(*plugins: Plugin) -> tuple[Need, ...]:
    """Returns the needs of several plug-ins, each once."""
    return tuple(dict.fromkeys(need for plugin in plugins for need in plugin.needs))


def check_needed(keep: Keep | None, selector: Selector) -> None:
    """Checks that there is a budget if the selector needs one.

    Raises:
        BudgetError: There is none, so nothing would be dropped.
    """
    if keep is None and selector.needs_keep:
        raise BudgetError(f"keep=None: {selector} needs a budget: how many patches to keep, as a count or a fraction")


def split_budget(keep: Keep | None, merger: Merger, patches: int, images: int = 1) -> tuple[int, int]:
    """Returns the budget as a count (all patches without a budget), and how many of them the selector keeps.

    Args:
        keep: The budget of an image.
        merger: The merger, which may use a part of it.
        patches: Number of patches of all images.
        images: Number of images that are compressed together; each adds the budget of an image of mean size.

    Raises:
        BudgetError: The merger would use the whole budget.
    """
    budget = patches if keep is None else resolve_keep(keep, patches // images) * images
    if (made := merger.reserved(budget)) >= budget:
        raise BudgetError(f"keep={keep}: {merger} alone makes {made} tokens, keep more than that")
    return budget, budget - made


def expected_tokens(keep: Keep | None, selector: Selector, merger: Merger, left: int | float, patches: int) -> float:
    """Returns how many of the `left` tokens of an image remain, on average if the number depends on the image."""
    budget, selected = split_budget(keep, merger, patches)
    kept = selector.expected(selected, left, patches)
    return float(kept + budget - selected + merger.extra(round(left - kept)))
