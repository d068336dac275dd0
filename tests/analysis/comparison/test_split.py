"""The split of questions by what a smaller image answers, against counts by hand."""

import numpy as np
import pandas as pd
import pytest

from foveate.analysis.cells import Cell
from foveate.analysis.comparison.split import simple_questions, split_cells, split_note, split_of
from foveate.analysis.statistics import mean_interval


def records(*scores):
    count = len(scores)
    return pd.DataFrame({"score": np.array(scores, float), "image_id": [f"i{n // 2}" for n in range(count)]})


SMALL = records(1, 0, 0, 1, 0.3, 0.6, 0, 0)
METHOD = records(1, 1, 0, 0, 1.0, 1.0, 0, 1)
FULL = records(1, 1, 1, 1, 1, 1, 1, 0)
FRAMES = {
    Cell("full", "full", "", 36, "a"): FULL,
    Cell("downsample", "downsample", "", 9, "b"): SMALL,
    Cell("vtc_cls", "vtc_cls", "", 9, "c"): METHOD,
    Cell("vtc_cls", "vtc_cls", "", 4, "d"): METHOD,
}


def test_simple_questions_are_those_that_the_smaller_image_answers_at_the_same_budget():
    simple = simple_questions(FRAMES)
    assert list(simple) == [9]
    assert simple[9].tolist() == [True, False, False, True, False, True, False, False]


@pytest.mark.guards("split: simple and difficult questions are swapped")
def test_accuracy_on_each_group_has_its_own_n_and_interval():
    found = split_of(METHOD, simple_questions(FRAMES)[9])
    assert (found["simple_n"], found["simple_accuracy"]) == (3, pytest.approx(2 / 3))
    assert (found["difficult_n"], found["difficult_accuracy"]) == (5, pytest.approx(3 / 5))
    own = mean_interval([1, 0, 1, 0, 1], ["i0", "i1", "i2", "i3", "i3"])  # the difficult ones, by hand
    assert (found["difficult_ci_low"], found["difficult_ci_high"]) == pytest.approx(own[1:3])


def test_downsample_itself_reaches_100_and_0_by_construction_and_is_marked():
    whole = records(1, 0, 0, 1, 0, 1, 0, 0)
    found = split_of(whole, whole["score"].to_numpy() >= 0.5)
    assert (found["simple_accuracy"], found["difficult_accuracy"]) == (1, 0)
    cells = split_cells(pd.Series({"method": "downsample", **found}))
    assert cells == {"simple (n = 3)": "100.0 (splits)", "difficult (n = 5)": "0.0 (splits)"}


def test_a_budget_without_downsample_has_no_split():
    found = split_of(METHOD, simple_questions(FRAMES).get(4))
    assert all(np.isnan(value) for value in found.values())
    assert split_cells(pd.Series({"method": "vtc_cls", **found})) == {} and split_note(4, FRAMES) == ""


def test_the_note_says_what_the_uncompressed_model_reaches_on_each_group():
    note = split_note(9, FRAMES)
    assert "Of 8 questions, 3 are simple: `full` 100.0 %" in note
    assert "5 are difficult: `full` 80.0 %" in note


def test_a_group_without_questions_has_n_0_and_no_accuracy():
    found = split_of(METHOD, np.ones(8, bool))
    assert found["difficult_n"] == 0 and np.isnan(found["difficult_accuracy"])
    assert "0 are difficult" in split_note(
        9, {**FRAMES, Cell("downsample", "downsample", "", 9, "b"): FULL.assign(score=1.0)}
    )
