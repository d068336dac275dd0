import re

import pytest

from analysis.ablation import Cell, ablation_table
from analysis.answer import answer_sentence, reference_budget
from foveate.core.errors import DataError


def answer(study, *families: str, depth: int = 6, feature_layer: int = 4) -> str:
    cells = [cell for cell in study.cells if cell.family in families]
    table = ablation_table(cells, study.out)
    return answer_sentence(table, cells, study.out, feature_layer=feature_layer, depth=depth)


@pytest.fixture(scope="session")
def whole(study):
    return answer_sentence(study.table, study.cells, study.out, feature_layer=4, depth=6)


def test_answer_is_about_the_second_smallest_budget(study, whole):
    assert reference_budget(study.table) == 16
    row = study.table[(study.table["scorer"] == "cls[2]") & (study.table["keep"] == 16)].iloc[0]
    number = f"{100 * row['accuracy']:.1f} % [{100 * row['ci_low']:.1f}, {100 * row['ci_high']:.1f}]"
    assert whole.startswith("At 16 of 144 patches (n = 440 questions about 40 images) the best single layer is 2: ")
    assert f"it reaches {number} and is significantly better than random patches (+" in whole


def test_answer_speaks_of_the_feature_layer_and_of_the_last(whole):
    assert "Layer 4, which writes the features, reaches" in whole
    assert "The last layer, 5, reaches" in whole
    assert "significantly worse than random patches (-" in whole


def test_answer_compares_the_best_sum_in_pairs_and_admits_the_choice(study, whole):
    at = study.table[study.table["keep"] == 16].set_index("scorer")["accuracy"]
    sums = at[[f"cls[{layer}:]" for layer in range(4)]]
    for layer in (2, 4):
        assert f"by {100 * (sums.max() - at[f'cls[{layer}]']):+.1f} points [" in whole
    assert "picked on these same questions, which flatters both" in whole


def test_answer_says_what_a_quarter_and_the_smallest_budget_cost(whole):
    assert "With layer 2, keeping 36 patches (25.0 %) costs " in whole
    assert " and keeping 7 patches (4.9 %) costs " in whole
    assert "with all 144 patches. Brackets hold 95 % intervals over images; verdicts are by p." in whole


def test_small_differences_are_not_called_significant(tmp_path, records, write_run):
    write_run(tmp_path, "layer", records([1, 0, 1, 0, 1, 1]))
    write_run(tmp_path, "random", records([1, 0, 1, 0, 0, 1]))
    write_run(tmp_path, "sum", records([1, 0, 1, 0, 1, 1]))
    cells = [
        Cell("cls[0]", "single", "0", 2, "layer"),
        Cell("cls[0:]", "suffix", "0-1", 2, "sum"),
        Cell("random[0]", "random", "", 2, "random"),
    ]
    text = answer_sentence(ablation_table(cells, tmp_path), cells, tmp_path, feature_layer=1, depth=2)
    assert text.startswith("Too few images for any test (n = 3). At 2 patches")
    assert "is not shown to differ from random patches" in text
    assert re.search(r"\+0\.0 points \[-\d+\.\d, \+\d+\.\d\] \(p = 1\.000, no difference shown\)", text)
    assert "significantly" not in text


def test_answer_does_without_controls_and_sums(study):
    text = answer(study, "single")
    assert text.startswith("At 16 patches")
    assert "was not compared with random patches" in text
    assert "sum" not in text
    assert "costs" not in text


def test_the_last_layer_is_named_once_when_it_writes_the_features(study):
    text = answer(study, "single", "random", feature_layer=5)
    assert text.count("Layer 5, which writes the features, reaches") == 1
    assert "The last layer" not in text


def test_without_single_layers_the_answer_says_so(study):
    assert answer(study, "uniform", "full") == "At 16 patches no single layer was measured."


def test_a_study_of_nothing_but_full_has_no_answer(study):
    with pytest.raises(DataError, match="no row but `full`"):
        answer(study, "full")
