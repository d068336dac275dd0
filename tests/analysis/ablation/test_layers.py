import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats
from statsmodels.stats.multitest import multipletests

from foveate.analysis.ablation.data import repairs_data
from foveate.analysis.ablation.figures import draw_repairs, repairs_figure
from foveate.analysis.ablation.report import repairs_markdown
from foveate.analysis.cells import Cell
from foveate.core.errors import DataError

#           right both, repaired, lost, broken, right both, repaired
ALONE = [1, 0, 0.5, 1, 1, 0]
BY_SUM = [1, 1, 0, 0.5, 1, 1]


@pytest.fixture
def cells(tmp_path, records, write_run) -> list[Cell]:
    for name, scores in (("one", ALONE), ("two", [1] * 6), ("sum", BY_SUM)):
        write_run(tmp_path, name, records(scores))
    return [
        Cell("cls[0]", "single", "0", 16, "one"),
        Cell("cls[1]", "single", "1", 16, "two"),
        Cell("cls[all]", "all", "0-1", 16, "sum"),
    ]


def test_every_question_is_kept_repaired_lost_or_broken(tmp_path, cells):
    data = repairs_data(cells, tmp_path, 16)
    assert (data.layers, data.keep, data.n, data.images) == ("0-1", 16, 6, 3)
    first, second = data.table.to_dict("records")
    assert [first[name] * 6 for name in ("kept", "repaired", "lost", "broken")] == pytest.approx([2, 2, 1, 1])
    assert (first["wrong"], first["of_wrong"]) == (3, pytest.approx(2 / 3))
    assert second["wrong"] == 0 and np.isnan(second["of_wrong"])


def test_controls_are_asked_the_same_questions_and_compared_in_pairs(tmp_path, records, write_run):
    rng, n = np.random.default_rng(0), 240
    chances = {"one": 0.4, "two": 0.5, "three": 0.7, "sum": 0.8, "r0": 0.6, "r1": 0.6}
    scores = {name: (rng.random(n) < chance).astype(float) for name, chance in chances.items()}
    for name, some in scores.items():
        write_run(tmp_path, name, records(list(some)))
    singles = [Cell(f"cls[{i}]", "single", f"{i}", 16, name) for i, name in enumerate(("one", "two", "three"))]
    randoms = [Cell(f"random[{i}]", "random", "", 16, f"r{i}") for i in range(2)]
    data = repairs_data([*singles, *randoms, Cell("cls[all]", "all", "0-2", 16, "sum")], tmp_path, 16)
    assert (data.seeds, list(data.table["other_layer"])) == (2, [2, 2, 1])
    raw = []
    for (_, row), name, other in zip(
        data.table.iterrows(), ("one", "two", "three"), ("three", "three", "two"), strict=True
    ):
        wrong, images = scores[name] == 0, (np.arange(n) // 2)[scores[name] == 0]
        controls = {"other": scores[other][wrong], "random": (scores["r0"] + scores["r1"])[wrong] / 2}
        for control, some in controls.items():
            delta = scores["sum"][wrong] - some
            assert row[control] == pytest.approx(some.mean())
            assert row[f"over_{control}"] == pytest.approx(delta.mean())
            groups = [delta[images == image] for image in np.unique(images)]
            drawn = rng.integers(0, len(groups), (3000, len(groups)))
            low, high = np.quantile([np.concatenate([groups[i] for i in one]).mean() for one in drawn], [0.025, 0.975])
            got = row[f"over_{control}_low"], row[f"over_{control}_high"]
            assert got == pytest.approx((low, high), abs=0.1 * (high - low))
            sums = np.array([group.sum() for group in groups])
            raw.append(stats.permutation_test((sums,), np.sum, permutation_type="samples", rng=0).pvalue)
    got = data.table[["over_other_p", "over_random_p"]].to_numpy().ravel()
    assert got == pytest.approx(multipletests(raw, method="holm")[1], abs=0.01)
    assert got.max() > 0.001
    line = repairs_markdown(data).splitlines()[-1]
    assert line.startswith("| 2 | ") and line.count(" better |") == 2


def test_a_sum_that_repairs_no_more_than_controls_has_no_significant_difference(tmp_path, records, write_run):
    rng, n = np.random.default_rng(3), 200
    for name in ("one", "two", "sum", "r0"):
        write_run(tmp_path, name, records(list((rng.random(n) < 0.6).astype(float))))
    cells = [Cell("cls[0]", "single", "0", 16, "one"), Cell("cls[1]", "single", "1", 16, "two")]
    cells += [Cell("cls[all]", "all", "0-1", 16, "sum"), Cell("random[0]", "random", "", 16, "r0")]
    data = repairs_data(cells, tmp_path, 16)
    assert data.table["of_wrong_low"].min() > 0.4  # all of it regression to the mean
    text = repairs_markdown(data)
    assert text.count("not significant |") == 4 and "better |" not in text


def test_without_the_sum_the_error_names_the_scorers_of_the_study(tmp_path, cells):
    with pytest.raises(
        DataError, match=r"cls\[all\] and single layers are needed at 16 patches, the study has cls\[0\]"
    ):
        repairs_data(cells[:2], tmp_path, 16)
    with pytest.raises(DataError, match="run `make ablate`"):
        repairs_data(cells, tmp_path, 7)


def test_bars_stack_to_all_questions(tmp_path, cells):
    ax = draw_repairs(repairs_data(cells, tmp_path, 16), Figure().subplots())
    tops = [bar.get_y() + bar.get_height() for bars in ax.containers for bar in bars]
    assert max(tops) == pytest.approx(1)
    heights = {}
    for bars in ax.containers:
        for bar in bars:
            layer = round(bar.get_x() + bar.get_width() / 2)
            heights[layer] = heights.get(layer, 0) + bar.get_height()
    assert heights == pytest.approx({0: 1, 1: 1})
    legend = ax.get_legend()
    assert legend.get_texts()[0].get_text() == "right only with the layer"
    assert "n = 6 questions about 3 images" in repairs_figure(repairs_data(cells, tmp_path, 16)).get_supxlabel()


def test_the_table_has_what_the_sum_repairs(tmp_path, cells):
    text = repairs_markdown(repairs_data(cells, tmp_path, 16))
    assert "at 16 patches: n = 6 questions about 3 images" in text
    (first, second) = text.splitlines()[-2:]
    assert first.startswith("| 0 | 3 | 66.7 [") and "| 100.0 [" in first and first.endswith("| - | - | - |")
    assert second.startswith("| 1 | 0 | - | - | - |")
