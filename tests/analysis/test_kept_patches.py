import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from analysis.ablation.data import Cell
from analysis.drawing import RIGHT, WRONG
from analysis.kept_patches import Panel, draw_kept_patches, kept_patches_data, kept_patches_figure

GRID = (2, 3)


@pytest.fixture
def cells(tmp_path, records, write_run):
    """Two columns that differ on the questions 2 (image i1) and 5 (image i2); in 4 `full` is wrong."""
    write_run(tmp_path, "full", records([1, 1, 1, 1, 0, 1]).assign(kept=[list(range(6))] * 6))
    write_run(tmp_path, "one", records([1, 1, 0, 1, 1, 0.5]))
    return [Cell("full", "full", "", 6, "full"), Cell("cls[2]", "single", "2", 2, "one")]


def images(*names):
    return {name: Image.new("RGB", (9, 4), (255, 0, 0)) for name in names}


def test_questions_are_those_on_which_the_columns_differ(tmp_path, cells):
    data = kept_patches_data(cells, tmp_path, images("i0", "i1", "i2"), GRID, rows=2)
    assert data.columns == ("all patches", "layer 2")
    assert (data.keep, data.patches) == (2, 6)
    assert [[panel.score for panel in row] for row in data.panels] == [[1, 0], [1, 0.5]]


def test_questions_without_an_image_are_not_shown(tmp_path, cells):
    data = kept_patches_data(cells, tmp_path, images("i0"), GRID)
    assert len(data.panels) == 2


def test_panel_holds_what_was_kept_and_the_evidence(tmp_path, cells):
    evidence = {"002": np.array([[True, False, False], [False, False, False]])}
    data = kept_patches_data(cells, tmp_path, images("i1"), GRID, evidence, rows=1)
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


def test_figure_has_a_row_per_question_and_says_how_they_were_picked(tmp_path, cells):
    figure = kept_patches_figure(kept_patches_data(cells, tmp_path, images("i0", "i1", "i2"), GRID, rows=2))
    assert len(figure.axes) == 2 * 3
    assert "2 of 6 patches kept" in figure.get_supxlabel()
    assert "picked because the answers differ" in figure.get_supxlabel().replace("\n", " ")
