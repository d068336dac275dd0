import numpy as np
import torch

from foveate.functional.sensitivity import random_directions, sensitivity


def test_directions_have_length_1_and_depend_on_the_seed_alone():
    first = random_directions(5, 7, 3)
    np.testing.assert_allclose(first.norm(dim=1), 1)
    assert torch.equal(first, random_directions(5, 7, 3))
    assert not torch.equal(first, random_directions(5, 7, 4))


def test_the_sensitivity_of_a_matrix_is_the_mean_length_of_its_products():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(4, 6, generator=generator).double()
    features = torch.randn(2, 5, 6, generator=generator).double()
    directions = random_directions(8, 6, 0)
    found = sensitivity(lambda x: x @ matrix.T, features, directions, 0.01)
    expected = np.linalg.norm(directions.numpy() @ matrix.numpy().T, axis=1).mean()
    np.testing.assert_allclose(found, np.full((2, 5), expected))


def test_the_sensitivity_of_a_curve_equals_central_differences_by_loops():
    features = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)).double()
    directions = random_directions(6, 4, 1)
    found = sensitivity(torch.sin, features, directions, 0.5).numpy()
    for image, rows in enumerate(features.numpy()):
        for patch, x in enumerate(rows):
            changes = [np.linalg.norm(np.sin(x + 0.5 * u) - np.sin(x - 0.5 * u)) for u in directions.numpy()]
            np.testing.assert_allclose(found[image, patch], np.mean(changes))  # 2 * 0.5 = 1
