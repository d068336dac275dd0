"""Whole compressors on images of any grid; `Given` are images that need no model."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveate.compressors import DecoderCompressor, VisionCompressor
from foveate.core.arrangement import Arrangement
from foveate.core.contracts import ImageBatch, Scorer
from foveate.core.errors import FoveateError
from foveate.mergers import DroppedMean
from foveate.selectors import MaxMin, TopK
from tests.properties.strategies import SEEDS, real, trace_of, views


class Given(ImageBatch):
    def __init__(self, seen, batch, seed):
        self.arrangement, self.batch, self.seed = Arrangement(seen), batch, seed

    def encode(self, needs):
        trace = trace_of(tuple(needs), self.arrangement.views, self.batch, self.seed)
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(self.batch, trace.patches, 5, generator=generator), trace

    def project(self, features):
        return features * 2

    def reduced(self, reduction, keep):
        raise NotImplementedError


@dataclass(frozen=True)
class Fixed(Scorer):
    """The same value for every patch but one."""

    odd: float
    place: int = 0

    def score(self, trace):
        scores = torch.ones(trace.batch, trace.patches)
        scores[:, self.place % trace.patches] = self.odd
        return scores


@given(views(), st.integers(1, 3), SEEDS, st.floats(0, 1, exclude_min=True))
def test_tokens_are_as_many_as_the_budget_and_kept_ones_are_their_patches(seen, batch, seed, keep):
    images = Given(seen, batch, seed)
    for selector in (TopK(), MaxMin()):
        made = VisionCompressor(Fixed(2.0, seed), keep, selector).compress(images)
        features, _ = images.encode(())
        count = VisionCompressor(Fixed(2.0), keep).plan(images.arrangement.patches, 1)
        assert made.visible.tolist() == [count[0]] * batch
        for row, kept in enumerate(made.decision.compression.kept):
            assert torch.equal(made.tokens[row], images.project(features[row, kept]))
    assert seed % images.arrangement.patches in real(
        VisionCompressor(Fixed(2.0, seed), 1).compress(images).decision.compression.kept[0]
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@given(views(), st.integers(1, 3), SEEDS)
def test_scores_that_are_no_numbers_are_refused_with_the_scorers_name(value, seen, batch, seed):
    images = Given(seen, batch, seed)
    _, trace = images.encode(())
    states = torch.zeros(batch, trace.patches, 5)
    for choose in (
        lambda: VisionCompressor(Fixed(value, seed), 1, merger=DroppedMean()).compress(images),
        lambda: DecoderCompressor(Fixed(value, seed), 1, 1).cut(states, trace),
    ):
        with pytest.raises(
            FoveateError, match=rf"Fixed.* gave {batch} of {batch * trace.patches} scores as NaN or inf"
        ):
            choose()


@given(views(), SEEDS)
def test_a_score_of_minus_infinity_is_what_is_not_there(seen, seed):
    images = Given(seen, 1, seed)
    patches = images.arrangement.patches
    made = VisionCompressor(Fixed(-torch.inf, seed), 1.0).compress(images)
    assert made.visible.tolist() == [max(patches - 1, 0)]
    assert seed % patches not in made.decision.compression.kept[0].tolist()
