import numpy as np
from PIL import Image

from analysis.overlays import kept_overlay, lit
from foveate.core.arrangement import Arrangement, Grid


def test_an_overlay_keeps_what_stays_and_dims_the_rest():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 8, 3), dtype=np.uint8)
    shown = np.asarray(kept_overlay([Image.fromarray(pixels)], [lit(Arrangement((Grid(3, 2),)), [1, 4])]))
    whole = np.asarray(Image.fromarray(pixels).resize((192, 192)))
    kept = np.zeros((3, 2), bool)
    kept.flat[[1, 4]] = True
    stays = np.kron(kept, np.ones((64, 96), bool))
    np.testing.assert_array_equal(shown[stays], whole[stays])
    assert np.abs(shown[~stays].astype(float) - 255).mean() < np.abs(whole[~stays].astype(float) - 255).mean() / 3


def test_of_several_views_the_last_is_shown():
    image = Arrangement((Grid(2, 2), Grid(1, 3)), Arrangement.boxes * 2)
    assert (lit(image, [0, 5]) == 1).tolist() == [[False, True, False]]


def test_overlays_stand_side_by_side():
    images = [Image.new("RGB", (96, 96), (40 * i, 90, 90)) for i in range(4)]
    kept = [[], [3], list(range(144)), np.arange(5)]
    assert kept_overlay(images, [lit(Arrangement((Grid(12, 12),)), some) for some in kept]).size == (
        4 * 192 + 3 * 8,
        192,
    )
