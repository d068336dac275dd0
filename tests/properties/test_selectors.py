"""What holds of every selector, whatever the grid, the scores and the budget."""

import pytest
import torch
from hypothesis import given

from foveate import selectors
from foveate.core.trace import PADDING, Trace
from foveate.functional.ranking import ranked, top_k
from tests.properties.strategies import real, situations, trace_of
from tests.selectors.test_selectors import EXACT, ORDERED, RASTER
from tests.tiers import parametrize
from tests.videos import SELECTORS as OF_VIDEOS

# a count that a small image cannot have is refused, which tests of budgets know
EVERY = [s for s in (*RASTER, *ORDERED, selectors.Nothing()) if s != selectors.TopShare(20, 0.5)]
TILED = [selector for selector in EVERY if isinstance(selector, selectors.PerTile)]  # tiles have shares of their own


def test_every_selector_is_tried():
    names = {type(selector).__name__ for selector in EVERY}
    assert names == set(selectors.__all__) - OF_VIDEOS


@parametrize("selector", EVERY, ids=repr)
@given(situation=situations())
def test_a_choice_is_of_different_patches_that_are_there(selector, situation):
    scores, seen, keep, seed = situation
    kept = selector.select(scores, trace_of(selector.needs, seen, len(scores), seed), keep)
    assert len(kept) == len(scores)
    for row, own in zip(kept, scores, strict=True):
        chosen = real(row)
        assert row.tolist() == chosen + [PADDING] * (len(row) - len(chosen))
        assert len(set(chosen)) == len(chosen)
        assert all(0 <= patch < len(own) and own[patch] > -torch.inf for patch in chosen)
        assert chosen or selector == selectors.Nothing() or isinstance(selector, selectors.Stride)
        if selector in EXACT and (selector not in TILED or (own > -torch.inf).all()):
            assert len(chosen) == min(keep, int((own > -torch.inf).sum()))
        if selector in RASTER:
            assert chosen == sorted(chosen)


@parametrize("selector", EVERY, ids=repr)
@given(situation=situations())
def test_a_choice_does_not_depend_on_the_other_images(selector, situation):
    scores, seen, keep, seed = situation
    together = trace_of(selector.needs, seen, len(scores), seed)
    kept = selector.select(scores, together, keep)
    for row in range(len(scores)):
        values = {need: value[row : row + 1] for need, value in together.values.items()}
        alone = selector.select(scores[row : row + 1], Trace(values, seen, 1), keep)
        assert real(alone[0]) == real(kept[row])


@pytest.mark.guards("tie rule: torch.topk, or the higher index")
@given(situations())
def test_equal_scores_go_to_the_lower_index(situation):
    scores, _, keep, _ = situation
    for row, chosen, ordered in zip(scores.tolist(), top_k(scores, keep), ranked(scores, keep), strict=True):
        order = sorted((place for place, score in enumerate(row) if score > -torch.inf), key=lambda p: (-row[p], p))
        assert real(ordered) == order[:keep]
        assert real(chosen) == sorted(order[:keep])


@given(situations())
def test_half_precision_changes_no_choice_among_scores_that_it_can_hold(situation):
    scores, _, keep, _ = situation
    exact = scores.bfloat16().float()
    assert top_k(exact.bfloat16(), keep).tolist() == top_k(exact, keep).tolist()
