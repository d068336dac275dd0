"""Basis tokens and what they leave unexplained, against numpy."""

import numpy as np
import torch

from foveate.functional.spanning import drawn, furthest, unexplained


def features(rows=2, tokens=20, dim=6):
    return torch.from_numpy(np.random.default_rng(0).normal(size=(rows, tokens, dim)))


def test_picks_are_always_the_token_furthest_from_those_chosen():
    given = features()
    picks = furthest(given, torch.tensor([4, 11]), torch.ones(2, 20, dtype=torch.bool), 7)
    for row, tokens in enumerate(given.numpy()):
        chosen = [(4, 11)[row]]
        for _ in range(6):
            distances = np.linalg.norm(tokens[:, None] - tokens[chosen], axis=-1).min(1)
            chosen.append(int(distances.argmax()))
        assert picks[row].tolist() == chosen


def test_picks_are_never_padding():
    real = torch.ones(2, 20, dtype=torch.bool)
    real[1, 3:] = False
    picks = furthest(features(), torch.tensor([4, 1]), real, 6)
    assert set(picks[1].tolist()) == {0, 1, 2}


def test_errors_are_those_of_a_ridge_regression():
    given, basis = features(), features(2, 4)
    for row in range(2):
        stacked = np.vstack([basis[row].numpy().T, np.sqrt(0.3) * np.eye(4)])  # ridge as more rows of least squares
        wanted = np.vstack([given[row].numpy().T, np.zeros((4, 20))])
        coefficients = np.linalg.lstsq(stacked, wanted, rcond=None)[0]
        expected = np.linalg.norm(given[row].numpy().T - basis[row].numpy().T @ coefficients, axis=0)
        np.testing.assert_allclose(unexplained(given, basis, 0.3)[row], expected, rtol=1e-9)


def test_the_drawn_token_is_real_and_depends_on_seed_and_image_but_not_on_the_batch():
    real = torch.zeros(40, 12, dtype=torch.bool)
    real[:, 2:9:3] = True
    first = drawn(0, torch.arange(40), real)
    assert set(first.tolist()) == {2, 5, 8}
    assert first.tolist() != drawn(1, torch.arange(40), real).tolist()
    assert drawn(0, torch.tensor([17]), real[:1]).tolist() == [first[17]]
