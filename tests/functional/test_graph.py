"""Walks on the graph of similar patches, against numpy."""

import numpy as np
import torch

from foveate.functional.graph import propagated


def test_lengths_are_passed_on_by_a_softmax_over_neighbours_and_shared_with_them():
    given = np.random.default_rng(0).normal(size=(2, 15, 3))
    found = propagated(torch.from_numpy(given), 0.4, 0.2, 3)
    for image, rows in enumerate(given):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        alike = unit @ unit.T
        weights = np.where(alike >= 0.4, np.exp(alike / 0.2), 0)
        matrix = np.linalg.matrix_power(weights / weights.sum(1, keepdims=True), 3)
        expected = np.linalg.norm(rows, axis=1) @ matrix / (alike >= 0.4).sum(1)
        np.testing.assert_allclose(found[image], expected, rtol=1e-9)


def test_a_patch_without_features_is_its_own_neighbour():
    assert propagated(torch.zeros(1, 4, 3), 0.5, 0.03, 5).tolist() == [[0.0] * 4]
