"""The contracts of plug-ins as test classes: subclass one and return the plug-in under test."""

import dataclasses
from abc import ABC, abstractmethod

import torch

from foveate.core.arrangement import Grid
from foveate.core.compression import Compression
from foveate.core.contracts import Merger, Scorer, Selector
from foveate.core.layers import LayersFrom
from foveate.core.needs import (
    AlignedPatches,
    AlignedText,
    AlignedWords,
    ClsQuery,
    ClsRows,
    Downsampled,
    EvidenceShare,
    Features,
    Fingerprint,
    FrameVectors,
    Keys,
    Need,
    PatchStates,
    PixelStatistic,
    PoolingRows,
    PromptRows,
    QuestionEmbeddings,
    ReceivedRows,
    ResponseRows,
    Role,
    Sensitivity,
    TokenKeys,
    TokenRoles,
    TokenStates,
)
from foveate.core.trace import PADDING, Trace

GRID = Grid(6, 8)
_HEADS, _WIDTH = 4, 5
_BEFORE, _QUESTION = 3, 6  # text tokens around the image


def random_trace(needs: tuple[Need, ...], batch: int = 3, seed: int = 0, grid: Grid = GRID) -> Trace:
    """Returns a trace with random answers to any need; a row does not depend on the number of rows."""
    values = {need: torch.stack([_answer(need, grid, seed * 1000 + row) for row in range(batch)]) for need in needs}
    return Trace(values, (grid,), batch)


def _answer(need: Need, grid: Grid, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    tokens = _BEFORE + grid.patches + _QUESTION
    match need:
        case ClsRows() | ResponseRows():
            layers = 3 if isinstance(need.layers, LayersFrom) else len(need.layers) or 2
            return normal(layers, _HEADS, grid.patches + 1).softmax(-1)[..., 1:]
        case PromptRows(heads="max"):
            return normal(1, grid.patches + 1).softmax(-1)[..., 1:]
        case ReceivedRows() | PromptRows() | PoolingRows():
            return normal(_HEADS, grid.patches + 1).softmax(-1)[..., 1:]
        case ClsQuery() | FrameVectors():
            return normal(_HEADS if isinstance(need, ClsQuery) else 1, _WIDTH)
        case Keys():
            return normal(grid.patches + 1, _HEADS, _WIDTH)
        case Features() | PatchStates() | AlignedPatches():
            return normal(grid.patches, _WIDTH)
        case Downsampled():
            return normal(need.rows * need.columns, _WIDTH)
        case AlignedText():
            return normal(1 if need.truncated else 2, _WIDTH)
        case QuestionEmbeddings() | AlignedWords():
            return normal(_QUESTION, _WIDTH)
        case TokenKeys():
            return normal(tokens, _HEADS, _WIDTH)
        case TokenStates():
            return normal(tokens, _WIDTH)
        case TokenRoles():
            counts = (_BEFORE, grid.patches, _QUESTION)
            return torch.tensor((Role.BEFORE, Role.VISUAL, Role.QUESTION)).repeat_interleave(torch.tensor(counts))
        case Fingerprint():
            return torch.randint(2**62, (), generator=generator)
        case PixelStatistic() | Sensitivity():
            return torch.rand(grid.patches, generator=generator)
        case EvidenceShare():
            share = torch.rand(2, grid.patches, generator=generator)
            return share.where(share > 0.9, 0)
    raise ValueError(f"no random answer to {need} is defined: add one to foveate.testing.contracts")


class ScorerContract(ABC):
    """Tests of every scorer of the vision side."""

    @abstractmethod
    def scorer(self) -> Scorer:
        """Returns the scorer under test, an equal one at each call."""

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
    """Tests of every selector.

    Attributes:
        raster_order: Whether kept patches must be in raster order.
    """

    raster_order = True

    @abstractmethod
    def selector(self) -> Selector:
        """Returns the selector under test, an equal one at each call."""

    def test_is_a_frozen_value(self) -> None:
        assert dataclasses.is_dataclass(self.selector())
        assert self.selector() == self.selector()
        assert hash(self.selector()) == hash(self.selector())

    def test_a_count_that_is_known_before_scores_is_that_of_every_image(self) -> None:
        if self.selector().static_count:
            trace, patches = random_trace(self.selector().needs), GRID.patches
            for keep in (1, 7, patches):
                kept = self.selector().select(_scores(), trace, keep)
                counts = (kept != PADDING).sum(1)
                assert counts.tolist() == [self.selector().expected(keep, patches, patches)] * 3

    def test_keeps_about_the_budget_of_different_patches(self) -> None:
        scores = _scores()
        for keep in (1, 7, GRID.patches):
            kept = self.selector().select(scores, random_trace(self.selector().needs), keep)
            counts = (kept != PADDING).sum(1)
            assert (counts >= 1).all()
            assert (kept < GRID.patches).all()
            for row, count in zip(kept.tolist(), counts.tolist(), strict=True):
                assert len(set(row[:count])) == count
                assert row[count:] == [PADDING] * (len(row) - count)
                assert not self.raster_order or row[:count] == sorted(row[:count])

    def test_never_keeps_what_is_not_there(self) -> None:
        scores = _scores()
        scores[0, ::3] = scores[1, 5:] = -torch.inf
        for keep in (1, 7, GRID.patches):
            kept = self.selector().select(scores, random_trace(self.selector().needs), keep)
            assert not scores.gather(1, kept.clamp(min=0))[kept != PADDING].isinf().any()

    def test_the_choice_of_an_image_does_not_depend_on_the_batch(self) -> None:
        together = self.selector().select(_scores(), random_trace(self.selector().needs), 7)
        alone = self.selector().select(_scores()[:1], random_trace(self.selector().needs, batch=1), 7)
        assert together[0][together[0] != PADDING].tolist() == alone[0][alone[0] != PADDING].tolist()


class MergerContract(ABC):
    """Tests of every merger."""

    @abstractmethod
    def merger(self) -> Merger:
        """Returns the merger under test, an equal one at each call."""

    def test_is_a_frozen_value(self) -> None:
        assert dataclasses.is_dataclass(self.merger())
        assert self.merger() == self.merger()
        assert hash(self.merger()) == hash(self.merger())

    def test_every_kept_patch_keeps_its_place_and_extra_tokens_are_as_many_as_announced(self) -> None:
        kept = torch.tensor([[0, 3, 9], [1, 2, 4], [5, 20, 47]])
        compression = self._merge(kept, 3)
        assert [row.tolist() for row in compression.kept] == kept.tolist()
        made = self.merger().extra(GRID.patches - 3) + self.merger().reserved(self._budget())
        assert compression.count.tolist() == [3 + made] * 3

    def test_the_tokens_of_an_image_do_not_depend_on_the_batch(self) -> None:
        kept = torch.tensor([[0, 3, 9], [1, 2, 4], [5, 20, PADDING]])
        together = self._merge(kept, 3).apply(self._features(3))
        for i, row in enumerate(kept):
            if PADDING not in row.tolist():
                trace = random_trace(self.merger().needs)
                one = Trace({need: value[i : i + 1] for need, value in trace.values.items()}, (GRID,), 1)
                budget = self._budget()
                alone = self.merger().merge(self._features(3)[i : i + 1], row[None], _scores()[i : i + 1], one, budget)
                torch.testing.assert_close(alone.apply(self._features(3)[i : i + 1])[0], together[i])

    def _features(self, batch: int) -> torch.Tensor:
        return torch.randn(batch, GRID.patches + 1, _WIDTH, generator=torch.Generator().manual_seed(5))

    def _merge(self, kept: torch.Tensor, batch: int) -> Compression:
        trace = random_trace(self.merger().needs)
        return self.merger().merge(self._features(batch), kept, _scores(), trace, self._budget())

    def _budget(self) -> int:
        """Returns a budget of which three patches are kept."""
        return next(budget for budget in range(3, GRID.patches) if budget - self.merger().reserved(budget) >= 3)


def _scores() -> torch.Tensor:
    return torch.rand(3, GRID.patches, generator=torch.Generator().manual_seed(0))
