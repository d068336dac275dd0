import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from foveate.analysis.cells import Cell
from foveate.analysis.drawing import RIGHT, WRONG
from foveate.analysis.kept_patches import (
    Panel,
    Setting,
    brightness_of,
    draw_kept_patches,
    kept_overlay,
    kept_patches_data,
    kept_patches_figure,
)
from foveate.core.arrangement import Arrangement, Grid

GRID = (2, 3)


@pytest.fixture
def cells(tmp_path, records, write_run):
    """Returns two columns that differ on the questions 2 (image i1) and 5 (image i2); `full` is wrong in 4."""
    write_run(tmp_path, "full", records([1, 1, 1, 1, 0, 1]).assign(kept=[list(range(6))] * 6))
    write_run(tmp_path, "one", records([1, 1, 0, 1, 1, 0.5]))
    return [Cell("full", "full", "", 6, "full"), Cell("cls[2]", "single", "2", 2, "one")]


def setting(*names, evidence=None):
    return Setting(4, 6, GRID, {name: Image.new("RGB", (9, 4), (255, 0, 0)) for name in names}, evidence or {})


def test_questions_are_those_on_which_the_columns_differ(tmp_path, cells):
    data = kept_patches_data(cells, tmp_path, setting("i0", "i1", "i2"), rows=2)
    assert data.columns == ("all patches", "layer 2")
    assert (data.keep, data.patches) == (2, 6)
    assert [[panel.score for panel in row] for row in data.panels] == [[1, 0], [1, 0.5]]


def test_questions_without_an_image_are_not_shown(tmp_path, cells):
    data = kept_patches_data(cells, tmp_path, setting("i0"))
    assert len(data.panels) == 2


def test_panel_holds_kept_patches_and_evidence(tmp_path, cells):
    evidence = {"002": np.array([[True, False, False], [False, False, False]])}
    data = kept_patches_data(cells, tmp_path, setting("i1", evidence=evidence), rows=1)
    full, one = data.panels[0]
    assert full.kept.all()
    assert one.kept.tolist() == [[True, False, False], [True, False, False]]
    assert one.evidence is evidence["002"]
    assert full.pixels.shape == (4, 9, 3)


def test_dropped_patches_are_grey_and_kept_ones_are_not():
    rng = np.random.default_rng(0)
    panel = Panel(rng.random((4, 6, 3)), np.array([[True, False, False], [False] * 3]), None, "red", 1.0)
    ax = draw_kept_patches(panel, Figure().subplots())
    shown = np.asarray(ax.images[0].get_array())
    assert (shown[:2, :2] == panel.pixels[:2, :2]).all()
    assert (np.ptp(shown[2:], axis=-1) == 0).all()


@pytest.mark.parametrize(
    ("score", "text", "colour"), [(1.0, "✓ red", RIGHT), (0.0, "✗ red", WRONG), (0.5, "✗ red (0.50)", WRONG)]
)
def test_the_answer_stands_below_in_the_colour_of_its_score(score, text, colour):
    panel = Panel(np.zeros((2, 3, 3)), np.ones(GRID, bool), np.eye(2, 3, dtype=bool), "red", score)
    ax = draw_kept_patches(panel, Figure().subplots())
    assert (ax.get_xlabel(), ax.xaxis.label.get_color()) == (text, colour)
    assert len(ax.collections) == 2  # the outline of the evidence with its halo


def test_figure_has_a_row_per_question_and_says_how_they_were_chosen(tmp_path, cells):
    figure = kept_patches_figure(kept_patches_data(cells, tmp_path, setting("i0", "i1", "i2"), rows=2))
    assert len(figure.axes) == 2 * 3
    assert "2 of 6 patches kept" in figure.get_supxlabel()
    assert "chosen because their answers differ" in figure.get_supxlabel().replace("\n", " ")


def test_an_overlay_dims_dropped_patches():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 8, 3), dtype=np.uint8)
    shown = np.asarray(kept_overlay([Image.fromarray(pixels)], [brightness_of(Arrangement((Grid(3, 2),)), [1, 4])]))
    whole = np.asarray(Image.fromarray(pixels).resize((192, 192)))
    kept = np.zeros((3, 2), bool)
    kept.flat[[1, 4]] = True
    stays = np.kron(kept, np.ones((64, 96), bool))
    np.testing.assert_array_equal(shown[stays], whole[stays])
    assert np.abs(shown[~stays].astype(float) - 255).mean() < np.abs(whole[~stays].astype(float) - 255).mean() / 3


def test_of_several_views_the_last_is_shown():
    image = Arrangement((Grid(2, 2), Grid(1, 3)), Arrangement.boxes * 2)
    assert (brightness_of(image, [0, 5]) == 1).tolist() == [[False, True, False]]


def test_overlays_stand_side_by_side():
    images = [Image.new("RGB", (96, 96), (40 * i, 90, 90)) for i in range(4)]
    kept = [[], [3], list(range(144)), np.arange(5)]
    assert kept_overlay(images, [brightness_of(Arrangement((Grid(12, 12),)), some) for some in kept]).size == (
        4 * 192 + 3 * 8,
        192,
    )
