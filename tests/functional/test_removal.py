"""Removal of the lowest values, against a loop."""

import numpy as np
import torch

from foveate.functional.removal import removable


def test_the_lowest_values_go_while_the_rest_holds_the_sum():
    values = np.random.default_rng(0).random((6, 30))
    for share in (0.0, 0.3, 0.72, 0.999, 1.0, 1.2):
        found = removable(torch.from_numpy(values), torch.from_numpy(share * values.sum(1) - 1e-12))
        for row, line in enumerate(values):
            gone: list[int] = []
            for patch in np.argsort(line):
                if np.delete(line, [*gone, patch]).sum() < share * line.sum() - 1e-12:
                    break
                gone.append(int(patch))
            assert found[row].nonzero()[:, 0].tolist() == sorted(gone)


def test_of_equal_values_the_lower_index_goes_first():
    assert removable(torch.ones(1, 4), torch.tensor([1.5]))[0].tolist() == [True, True, False, False]
