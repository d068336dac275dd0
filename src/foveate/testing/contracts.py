"""The contracts of the plug-ins as test classes: subclass one, say what to test, and pytest does the rest."""

import dataclasses
from abc import ABC, abstractmethod

import torch

from foveate.core.contracts import Merger, Selector, VisionScorer
from foveate.core.needs import ClsRows, EvidenceShare, Fingerprint, LayersFrom, Need
from foveate.core.types import Grid, Trace

GRID = Grid(6, 8)


def random_trace(needs: tuple[Need, ...], batch: int = 3, seed: int = 0, grid: Grid = GRID) -> Trace:
    """A trace with plausible random answers to any need; row i does not depend on how many rows follow it."""
    values = {need: torch.stack([_answer(need, grid, seed * 1000 + row) for row in range(batch)]) for need in needs}
    return Trace(values, grid, batch)


def _answer(need: Need, grid: Grid, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    match need:
        case ClsRows():
            layers = 3 if isinstance(need.layers, LayersFrom) else len(need.layers)
            return torch.randn(layers, 4, grid.patches + 1, generator=generator).softmax(-1)[..., 1:]
        case Fingerprint():
            return torch.randint(2**62, (), generator=generator)
        case EvidenceShare():
            share = torch.rand(2, grid.patches, generator=generator)
            return share.where(share > 0.9, 0)
    raise ValueError(f"no random answer to {need} yet: add one to foveate.testing")


class VisionScorerContract(ABC):
    """What every vision scorer promises."""

    @abstractmethod
    def scorer(self) -> VisionScorer:
        """The scorer under test; called again it gives an equal one."""

    def test_is_a_frozen_value(self) -> None:
        assert dataclasses.is_dataclass(self.scorer())
        assert self.scorer() == self.scorer()
        assert hash(self.scorer()) == hash(self.scorer())
        assert repr(self.scorer()) == repr(self.scorer())

    def test_gives_one_finite_score_per_patch(self) -> None:
        scores = self.scorer().score(random_trace(self.scorer().needs))
        assert scores.shape == (3, GRID.patches)
        assert scores.isfinite().all()

    def test_scores_of_an_image_do_not_depend_on_the_batch(self) -> None:
        alone = self.scorer().score(random_trace(self.scorer().needs, batch=1))
        together = self.scorer().score(random_trace(self.scorer().needs, batch=3))
        assert torch.equal(alone[0], together[0])


class SelectorContract(ABC):
    """What every selector promises."""

    @abstractmethod
    def selector(self) -> Selector:
        """The selector under test."""

    def test_keeps_exactly_the_budget_in_raster_order(self) -> None:
        trace = random_trace(())
        scores = torch.rand(3, GRID.patches, generator=torch.Generator().manual_seed(0))
        for keep in (1, 7, GRID.patches):
            kept = self.selector().select(scores, trace, keep)
            assert kept.shape == (3, keep)
            assert (kept.diff(dim=1) > 0).all()
            assert ((kept >= 0) & (kept < GRID.patches)).all()

    def test_equal_scores_go_to_the_lower_index(self) -> None:
        kept = self.selector().select(torch.zeros(1, GRID.patches), random_trace((), batch=1), 5)
        assert kept.tolist() == [[0, 1, 2, 3, 4]]


class MergerContract(ABC):
    """What every merger promises."""

    @abstractmethod
    def merger(self) -> Merger:
        """The merger under test."""

    def test_every_token_takes_the_place_of_a_kept_patch(self) -> None:
        features = torch.rand(3, GRID.patches, 5)
        kept = torch.tensor([[0, 3, 9], [1, 2, 4], [5, 20, 47]])
        compression = self.merger().merge(features, kept, random_trace(()))
        assert torch.equal(compression.origin, kept)
        assert compression.apply(features).shape == (3, 3, 5)
        assert (compression.size >= 1).all()
