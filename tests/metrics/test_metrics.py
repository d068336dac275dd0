import numpy as np
import pytest
import torch

from foveate.core.arrangement import Grid
from foveate.functional.ranking import marked
from foveate.metrics.answers import agreement, exact_match, set_f1
from foveate.metrics.evidence import evidence_recall, evidence_share, things_kept


@pytest.mark.parametrize(
    ("prediction", "score"), [("red", 1), (" Red. ", 1), ("crimson", 1), ("red square", 0), ("", 0), ("re d", 0)]
)
def test_exact_match_ignores_case_blanks_and_the_full_stop(prediction, score):
    assert exact_match(prediction, ("red", "crimson")) == score


def test_set_f1_equals_precision_and_recall_by_hand():
    found, true = "red star, blue ring, green cross", "blue ring, red star, cyan square, yellow circle"
    precision, recall = 2 / 3, 2 / 4
    assert set_f1(found, (true,)) == pytest.approx(2 * precision * recall / (precision + recall))


@pytest.mark.parametrize(
    ("found", "true", "score"),
    [("a, b", "b, a", 1), ("a, a, a", "a", 1), ("", "a", 0), ("", "", 1), ("A , b.", "a, B", 1), ("ab", "a, b", 0)],
)
def test_set_f1_does_not_count_order_or_repetition(found, true, score):
    assert set_f1(found, (true,)) == score


def test_agreement_compares_answers_as_exact_match():
    assert agreement(["red", "Blue.", "two"], ["red", "blue", "three"]) == [1, 1, 0]


def test_the_share_of_a_patch_is_its_mean_mask():
    masks = torch.from_numpy(np.random.default_rng(0).random((3, 12, 20)) < 0.4)
    expected = masks.float().reshape(3, 3, 4, 5, 4).mean((2, 4)).flatten(1)
    torch.testing.assert_close(evidence_share(masks, Grid(3, 5)), expected)
    assert evidence_share(masks[:0], Grid(3, 5)).shape == (0, 15)


def test_recall_and_things_kept_equal_sets_by_hand():
    share = torch.zeros(3, 2, 10)
    share[0, 0, [1, 2, 3]] = 0.5
    share[0, 1, [3, 4]] = 0.5
    share[0, 1, 9] = 0.01  # below SHOWN
    share[1, 0, 7] = 1.0
    kept = marked(torch.tensor([[1, 2, 9], [0, 1, 2], [0, 1, -1]]), 10)
    np.testing.assert_allclose(evidence_recall(kept, share), [2 / 4, 0.0, np.nan])
    np.testing.assert_allclose(things_kept(kept, share), [0.0, 0.0, np.nan])
    np.testing.assert_allclose(things_kept(marked(torch.tensor([[3], [7], [0]]), 10), share), [1.0, 1.0, np.nan])
