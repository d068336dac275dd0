"""Scores less their mean over images, and sinks that come last, against numpy."""

import numpy as np
import pytest
import torch

from foveate.core.arrangement import Grid
from foveate.core.needs import ClsRows, Features
from foveate.core.trace import PADDING, Trace
from foveate.functional.ranking import ranked
from foveate.scorers import ClsAttention, Debiased, WithoutSinks
from foveate.testing.contracts import random_trace

BASE = ClsAttention(1)


def trace_of(scores: np.ndarray, norms: np.ndarray | None = None) -> Trace:
    """One image whose patches have these scores, and features of these norms."""
    values = {ClsRows((1,)): torch.tensor(scores, dtype=torch.float32).reshape(1, 1, 1, -1)}
    if norms is not None:
        features = np.stack([0.6 * norms, -0.8 * norms], 1)
        values[Features()] = torch.tensor(features, dtype=torch.float32)[None]
    return Trace(values, (Grid(1, len(scores)),), 1)


def test_what_is_the_same_in_all_images_is_gone():
    trace = random_trace(BASE.needs)
    plain = BASE.score(trace).numpy()
    mean = plain.mean(0)
    found = Debiased(BASE, tuple(mean.tolist())).score(trace).numpy()
    np.testing.assert_allclose(found, plain - mean, atol=1e-6)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-6)


def test_behind_a_cut_each_patch_is_given_the_mean_of_its_own_place():
    place = torch.tensor([[5, 2, 0], [1, PADDING, 3]])
    rows = torch.tensor([[0.3, 0.2, 0.1], [0.6, 0.0, 0.4]])
    trace = Trace({ClsRows((1,)): rows[:, None, None]}, (Grid(2, 3),), 2, place)
    found = Debiased(BASE, (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)).score(trace)
    expected = torch.tensor([[-0.2, 0.0, 0.1], [0.5, 0.0, 0.1]])
    torch.testing.assert_close(found, expected)


def test_a_mean_of_another_model_is_refused_and_the_mean_is_part_of_the_value():
    with pytest.raises(ValueError, match="a mean of 3 patches for images of 48: compute it for this model"):
        Debiased(BASE, (0.1, 0.2, 0.3)).score(random_trace(BASE.needs))
    assert Debiased(BASE, (0.1,)) != Debiased(BASE, (0.2,))
    assert len(repr(Debiased(BASE, (0.1,) * 576))) < 100


def test_sinks_come_last_in_the_order_that_they_had_and_the_others_keep_their_scores():
    norms = np.array([1.0, 1.1, 0.9, 9.0, 1.0, 8.0, 1.05, 0.95, 7.0, 1.02, 0.98, 1.01, 0.99, 1.03])
    scores = np.array([0.1, 0.3, 0.3, 0.9, 0.2, 0.5, 0.0, 0.4, 0.5, 0.01, 0.02, 0.03, 0.04, 0.05])
    lower, upper = np.percentile(norms, [25, 75])
    sinks = norms > upper + 1.5 * (upper - lower)
    assert sinks.nonzero()[0].tolist() == [3, 5, 8]
    found = WithoutSinks(BASE).score(trace_of(scores, norms))
    np.testing.assert_allclose(found[0, ~sinks], scores[~sinks], atol=1e-6)
    # of equal scores the lower index first
    assert ranked(found, 14).tolist() == [[7, 1, 2, 4, 0, 13, 12, 11, 10, 9, 6, 3, 5, 8]]
    assert WithoutSinks(BASE, 1000).score(trace_of(scores, norms)).tolist() == [pytest.approx(scores.tolist())]


def test_what_is_no_token_is_no_sink_and_stays_out():
    trace = trace_of(np.array([0.1, -np.inf, 0.3, 0.2]), np.array([1.0, 50.0, 1.0, 1.0]))
    found = WithoutSinks(BASE).score(trace)
    assert found.tolist() == [[pytest.approx(0.1), -np.inf, pytest.approx(0.3), pytest.approx(0.2)]]
