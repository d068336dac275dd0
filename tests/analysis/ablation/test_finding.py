import re

import pytest
from PIL import Image

from foveate.analysis.ablation.finding import finding_data, finding_figure
from foveate.analysis.cells import Cell
from foveate.analysis.kept_patches import Setting
from foveate.core.errors import DataError

GRID = (2, 3)
SETTING = Setting(4, 6, GRID, {f"i{number}": Image.new("RGB", (9, 4), (255, 0, 0)) for number in range(3)}, {})
SCORES = {  # of six questions, two per image
    "cls[all]": ("all", "0-5", [1, 1, 0, 1, 0, 1]),
    "cls[2]": ("single", "2", [0, 0, 1, 0, 0, 1]),
    "prompt attention": ("fastv", "", [0, 0, 0, 0, 0, 1]),
    "random[0]": ("random", "", [0, 0, 0, 0, 0, 1]),
    "random[1]": ("random", "", [1, 1, 1, 1, 1, 1]),
}


@pytest.fixture
def cells(tmp_path, records, write_run):
    """Returns a study in which only the sum answers the questions 0, 1 and 3, and only layer 2 question 2."""
    write_run(tmp_path, "full", records([1, 1, 1, 1, 1, 1]))
    found = [Cell("full", "full", "", 6, "full")]
    for name, (family, layers, scores) in SCORES.items():
        for keep in (2, 1):
            write_run(tmp_path, f"{name}-{keep}", records(scores))
            found.append(Cell(name, family, layers, keep, f"{name}-{keep}"))
    return found


def test_examples_are_those_that_only_the_sum_answers_and_differ_in_kind_and_image(tmp_path, cells):
    data = finding_data(cells, tmp_path, SETTING, keep=2)
    assert data.examples.columns == ("sum of all layers", "layer 2", "prompt attention", "random")
    assert [[panel.score for panel in row] for row in data.examples.panels] == [[1, 0, 0, 0]] * 2
    assert data.alone == {"sum of all layers": 3, "layer 2": 1, "prompt attention": 0, "random": 0}


def test_a_line_has_the_mean_score_of_every_budget_and_random_is_the_mean_over_seeds(tmp_path, cells):
    frontier = finding_data(cells, tmp_path, SETTING, keep=2).frontier
    lines = {series.label: series.points["accuracy"].tolist() for series in frontier.series}
    assert lines["sum of all layers"] == pytest.approx([4 / 6] * 2)
    assert lines["random"] == pytest.approx([(1 / 6 + 1) / 2] * 2)
    assert (frontier.full, frontier.patches, frontier.n, frontier.images) == (1, 6, 6, 3)


def test_a_budget_that_was_not_measured_is_named(tmp_path, cells):
    with pytest.raises(DataError, match="no answers of all, single, fastv, random with 5 patches: add the budget 5"):
        finding_data(cells, tmp_path, SETTING, keep=5)


def test_too_few_questions_for_the_examples_are_an_error(tmp_path, cells):
    one_image = SETTING._replace(images={"i0": SETTING.images["i0"]})
    with pytest.raises(DataError, match=re.escape("only 1 questions are answered by cls[all] alone")):
        finding_data(cells, tmp_path, one_image, keep=2)


def test_the_figure_has_a_panel_per_question_and_scorer_and_says_n(tmp_path, cells):
    figure = finding_figure(finding_data(cells, tmp_path, SETTING, keep=2))
    assert len(figure.axes) == 2 * 4 + 1
    assert figure.axes[-1].get_title(loc="left") == "right answers, n = 6 questions"
