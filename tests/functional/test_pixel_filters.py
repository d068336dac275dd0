"""Filters of pixels against loops over patches in NumPy, and by hand."""

import numpy as np
import pytest
import torch

from foveate.core.needs import PIXEL_STATISTICS
from foveate.functional.pixel_filters import contrast, edges, filtered, luminance, saturation


def oracle(name, image, sides):
    """One number per patch of a (height, width, 3) array, pixel by pixel."""
    down, across = sides
    grey = image @ np.array([0.299, 0.587, 0.114])
    rows, columns = np.gradient(grey)
    found = []
    for top in range(0, image.shape[0] - down + 1, down):
        for left in range(0, image.shape[1] - across + 1, across):
            places = [(y, x) for y in range(top, top + down) for x in range(left, left + across)]
            if name == "saturation":
                found.append(sum(max(image[place]) - min(image[place]) for place in places) / len(places))
            elif name == "contrast":
                found.append(np.std([grey[place] for place in places]))
            else:
                found.append(sum(np.hypot(rows[place], columns[place]) for place in places) / len(places))
    return np.array(found)


@pytest.mark.parametrize(("size", "sides"), [((24, 24), (4, 4)), ((12, 20), (3, 5)), ((30, 23), (14, 7))], ids=str)
def test_every_filter_is_that_of_a_loop_over_patches(size, sides):
    """With a rest at the right and at the bottom, which a tower's convolution leaves out too."""
    images = np.random.default_rng(0).random((3, *size, 3))
    names = [need.name for need in PIXEL_STATISTICS]
    found = filtered(torch.from_numpy(images).movedim(-1, 1), sides, names)
    for name, values in zip(names, found.unbind(-1), strict=True):
        np.testing.assert_allclose(values, [oracle(name, image, sides) for image in images], rtol=1e-12)


def test_saturation_by_hand():
    image = torch.zeros(1, 3, 2, 4)
    image[0, :, 0, 0] = torch.tensor([0.9, 0.2, 0.5])  # one of four pixels of the first patch
    image[0, :, :, 2:] = 0.7  # grey
    assert saturation(image, (2, 2)).tolist() == [[pytest.approx(0.7 / 4), 0]]


def test_contrast_by_hand():
    image = torch.zeros(1, 3, 2, 4)
    image[0, :, :, 1] = 1  # half black, half white: a deviation of 1/2 around 1/2
    image[0, 0, :, 2:] = 1  # colourful, but everywhere alike
    assert contrast(luminance(image), (2, 2)).tolist() == [[pytest.approx(0.5), 0]]
    assert luminance(image)[0, 0, 2].item() == 299


def test_an_edge_between_patches_counts_for_both():
    image = torch.zeros(1, 3, 2, 6)
    image[..., 2:] = 1  # black, then white from the second patch on
    # per pixel of a row: 0, 1/2, 1/2, 0, 0, 0
    assert edges(luminance(image), (2, 2)).tolist() == [[pytest.approx(0.25), pytest.approx(0.25), 0]]


def test_the_border_of_the_image_has_one_sided_differences():
    ramp = torch.arange(6.0).expand(1, 4, 6) / 10
    torch.testing.assert_close(edges(luminance(ramp.expand(1, 3, 4, 6)), (2, 2)).float(), torch.full((1, 6), 0.1))
