"""Compressors: scorer, selector and merger put together, and attached to a stock model."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveate.core.budget import resolve_keep
from foveate.core.contracts import Merger, Selector, VisionScorer
from foveate.core.needs import Need
from foveate.core.types import Compression, Trace
from foveate.mergers import Drop
from foveate.models.load import adapt
from foveate.selectors import TopK


@dataclass(frozen=True, eq=False)
class Decision:
    """What a compressor decided for a batch of images, and the scores it decided by."""

    scores: Float[Tensor, "batch patch"]
    compression: Compression

    @property
    def kept(self) -> Int[Tensor, "batch kept"]:
        """The patches whose places remain, in raster order."""
        return self.compression.origin


class Run:
    """What an attached compressor decided in the model's latest call."""

    def __init__(self) -> None:
        self._decision: Decision | None = None

    @property
    def decision(self) -> Decision:
        if self._decision is None:
            raise LookupError("nothing was compressed yet: call the model with pixel_values inside the `with`")
        return self._decision

    @property
    def kept(self) -> Int[Tensor, "image kept"]:
        return self.decision.kept

    @property
    def scores(self) -> Float[Tensor, "image patch"]:
        return self.decision.scores

    def record(self, decision: Decision) -> Compression:
        self._decision = decision
        return decision.compression


class Compressor(ABC):
    """A whole method: what it needs to know of a picture, and which tokens it makes of it.

    A compressor is a value: frozen, equal to its like, and its `repr` identifies it in records.
    """

    positions: Literal["repacked", "original"]

    @property
    @abstractmethod
    def needs(self) -> tuple[Need, ...]:
        """What `decide` will read from the trace."""

    @abstractmethod
    def decide(self, features: Float[Tensor, "batch patch dim"], trace: Trace) -> Decision:
        """The compression of each image's features."""

    @property
    def repack(self) -> bool:
        return self.positions == "repacked"

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[Run]:
        """While active, the stock model compresses the images it is given; afterwards it is as it was.

        Yields:
            The run, which holds `kept` and `scores` of the latest call.

        Raises:
            UnsupportedModel: No adapter knows the model.
            UnsupportedNeed: At the first call, if the model cannot give what the scorer needs.
        """
        run = Run()
        with adapt(model).compressing(self.needs, lambda x, trace: run.record(self.decide(x, trace)), self.repack):
            yield run


@dataclass(frozen=True)
class VisionCompressor(Compressor):
    """Compresses what the vision tower gives to the language model.

    Attributes:
        scorer: Which patches matter.
        keep: How many to keep: a count, or a fraction of an image's patches.
        selector: How scores become a choice.
        merger: What becomes of the others.
        positions: "repacked" numbers the remaining tokens consecutively, as the original LLaVA code does; "original"
            lets every token keep the position it had.
    """

    scorer: VisionScorer
    keep: int | float
    selector: Selector = TopK()
    merger: Merger = Drop()
    positions: Literal["repacked", "original"] = "repacked"

    @property
    def needs(self) -> tuple[Need, ...]:
        return self.scorer.needs

    def decide(self, features: Float[Tensor, "batch patch dim"], trace: Trace) -> Decision:
        keep = resolve_keep(self.keep, trace.grid.patches)
        scores = self.scorer.score(trace).to(features.device)
        kept = self.selector.select(scores, trace, keep)
        return Decision(scores, self.merger.merge(features, kept, trace))


@dataclass(frozen=True)
class Identity(Compressor):
    """Keeps every patch."""

    positions: Literal["repacked", "original"] = "original"

    @property
    def needs(self) -> tuple[Need, ...]:
        return ()

    def decide(self, features: Float[Tensor, "batch patch dim"], trace: Trace) -> Decision:
        scores = torch.ones(features.shape[:2], device=features.device)
        kept = torch.arange(features.shape[1], device=features.device).expand(len(features), -1)
        return Decision(scores, Drop().merge(features, kept, trace))


@dataclass(frozen=True)
class Blind(Compressor):
    """Keeps nothing: the language model answers without the picture."""

    positions: Literal["repacked", "original"] = "repacked"

    @property
    def needs(self) -> tuple[Need, ...]:
        return ()

    def decide(self, features: Float[Tensor, "batch patch dim"], trace: Trace) -> Decision:
        nothing = torch.empty(len(features), 0, dtype=torch.long, device=features.device)
        return Decision(torch.zeros(features.shape[:2], device=features.device), Drop().merge(features, nothing, trace))
