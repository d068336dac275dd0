"""What holds of every merger, whatever was kept."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from foveate import mergers
from foveate.core.trace import PADDING, Trace
from foveate.mergers import Contextual, Drop, TextCentres, WeightedNeighbours, ZeroFill
from tests.mergers.test_mergers import MERGERS
from tests.properties.strategies import SEEDS, real, scores_of, trace_of, views
from tests.tiers import parametrize
from tests.videos import MERGERS as OF_VIDEOS

FREE = [merger for merger in MERGERS if not isinstance(merger, Contextual)]


@st.composite
def choices(draw):
    """Scores, views, kept patches of each image in raster order, and a seed; one image keeps all, another one."""
    seen = draw(views())
    patches = sum(grid.patches for grid in seen)
    scores = draw(scores_of(draw(st.integers(1, 3)), patches))
    there = [[place for place, score in enumerate(row) if score > -torch.inf] for row in scores.tolist()]
    kept = [sorted(draw(st.sets(st.sampled_from(own), min_size=1))) for own in there]
    width = max(map(len, kept))
    return scores, seen, torch.tensor([row + [PADDING] * (width - len(row)) for row in kept]), draw(SEEDS)


def features_of(scores, seed):
    return torch.randn(len(scores), scores.shape[1] + 1, 5, generator=torch.Generator().manual_seed(seed))


def test_every_merger_is_tried():
    assert {type(merger).__name__ for merger in MERGERS} == set(mergers.__all__) - OF_VIDEOS


@parametrize("merger", FREE, ids=repr)
@given(choice=choices())
def test_kept_patches_stay_and_as_many_tokens_are_made_as_announced(merger, choice):
    scores, seen, kept, seed = choice
    features = features_of(scores, seed)
    trace = trace_of(merger.needs, seen, len(scores), seed)
    made = merger.merge(features, kept, scores, trace, kept.shape[1])
    tokens = made.apply(features)
    assert [row.tolist() for row in made.kept] == [real(row) for row in kept]
    assert tokens.isfinite().all()
    if merger != ZeroFill():  # which fills up to the budget
        there = (scores > -torch.inf).sum(1)
        for row, own, count in zip(kept, there.tolist(), made.count.tolist(), strict=True):
            dropped, reserved = own - len(real(row)), merger.reserved(kept.shape[1])
            reserved = min(reserved, dropped) if isinstance(merger, TextCentres) else reserved  # each is a dropped one
            assert count == len(real(row)) + merger.extra(dropped) + reserved
    may_be_zeros = isinstance(merger, ZeroFill | WeightedNeighbours)  # by a budget or by scores of 0
    assert (made.size[made.origin >= 0 if may_be_zeros else made.real] >= 1).all()
    if merger in (Drop(), ZeroFill()):
        for row, chosen in enumerate(kept):
            assert torch.equal(tokens[row, : len(real(chosen))], features[row, real(chosen)])


@parametrize("merger", FREE, ids=repr)
@given(choice=choices())
def test_tokens_do_not_depend_on_the_other_images(merger, choice):
    scores, seen, kept, seed = choice
    features, together = features_of(scores, seed), trace_of(merger.needs, seen, len(scores), seed)
    made = merger.merge(features, kept, scores, together, kept.shape[1])
    for row in range(len(scores)):
        values = {need: value[row : row + 1] for need, value in together.values.items()}
        own = kept[row : row + 1] if merger == ZeroFill() else kept[row : row + 1, : len(real(kept[row]))]
        alone = Trace(values, seen, 1)
        alone = merger.merge(features[row : row + 1], own, scores[row : row + 1], alone, kept.shape[1])
        count = int(made.count[row])
        assert made.origin[row, :count].tolist() == alone.origin[0, :count].tolist()
        torch.testing.assert_close(made.apply(features)[row, :count], alone.apply(features[row : row + 1])[0, :count])


@pytest.mark.parametrize("share", [0.0, 5 / 32, 0.5])
@given(choice=choices(), cls=st.booleans())
def test_contextual_tokens_fill_the_budget_and_take_in_every_dropped_patch(share, cls, choice):
    scores, seen, _, seed = choice
    scores = scores.clamp(min=0)  # behind the tower every patch is there
    patches = scores.shape[1]
    budget = 1 + seed % patches
    merger = Contextual(share, cls=cls)
    assume(merger.reserved(budget) < budget)
    kept = scores.argsort(stable=True)[:, : budget - merger.reserved(budget)].sort().values
    features = features_of(scores, seed)
    made = merger.merge(features, kept, scores, trace_of(merger.needs, seen, len(scores), seed), budget)
    assert (made.count == budget).all() or patches - kept.shape[1] < merger.reserved(budget)
    assert made.apply(features).isfinite().all()
    if merger.reserved(budget) > cls:
        assert made.mixing is not None and (made.mixing[..., :patches].sum(1) > 0).all()
