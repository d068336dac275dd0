"""Arrays of images in a file come back bit by bit, whatever the groups in which they were written."""

import numpy as np
import pytest
import torch

from foveate.evaluation.array_file import ArrayFile, ImageArrays, write


def group(ids, patches, columns=3):
    """Returns arrays of images of so many patches."""
    rng = np.random.default_rng(patches)
    features = rng.random((len(ids), patches, columns), np.float32)
    return ImageArrays(ids, f"{patches} patches", {"number": rng.integers(0, 2**62, len(ids)), "features": features})


def test_images_of_one_shape_come_back_in_any_order_and_across_groups(tmp_path):
    groups = [group(["a", "b"], 4), group(["c"], 7), group(["d", "e", "f"], 4)]
    assert write(tmp_path / "arrays", iter(groups))
    file = ArrayFile(tmp_path / "arrays")
    assert file.arrangements == {name: one.arrangement for one in groups for name in one.ids}
    found = file.rows(["e", "a", "f", "a"])
    where = [(2, 1), (0, 0), (2, 2), (0, 0)]
    for name, values in found.items():
        assert torch.equal(values, torch.from_numpy(np.stack([groups[i].arrays[name][row] for i, row in where])))
    assert found["number"].dtype == torch.int64 and found["features"].shape == (4, 4, 3)
    assert file.rows(["c"])["features"].shape == (1, 7, 3)


def test_nothing_is_written_of_no_images(tmp_path):
    assert not write(tmp_path / "arrays", iter([]))
    assert not (tmp_path / "arrays").exists()


def test_arrays_with_other_columns_are_refused_by_the_names_of_their_images(tmp_path):
    with pytest.raises(ValueError, match="images c, d: expected arrays like those of a"):
        write(tmp_path / "arrays", iter([group(["a"], 4), group(["c", "d"], 4, columns=2)]))
