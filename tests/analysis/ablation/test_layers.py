import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis.ablation.data import Cell
from analysis.ablation.layers import (
    Repairs,
    draw_repairs,
    draw_sinks,
    repairs_data,
    repairs_figure,
    sinks_data,
    sinks_figure,
)
from analysis.ablation.layers_answer import layers_answer
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


def frame(shares: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    rows = [
        {"signal": signal, "layers": layers, "sample_id": number, "image_id": f"i{number}", "sink_share": share}
        for (signal, layers), values in shares.items()
        for number, share in enumerate(values)
    ]
    return pd.DataFrame(rows)


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
    told = layers_answer(data, pd.DataFrame())
    assert "] with layer 1, the best other one on all questions; " in told
    assert "] with random patches (2 seeds). The sum" in told
    assert "The sum answers more of them than random patches (2 seeds): +" in told


def test_what_repairs_no_more_than_luck_is_said_to(tmp_path, records, write_run):
    rng, n = np.random.default_rng(3), 200
    for name in ("one", "two", "sum", "r0"):
        write_run(tmp_path, name, records(list((rng.random(n) < 0.6).astype(float))))
    cells = [Cell("cls[0]", "single", "0", 16, "one"), Cell("cls[1]", "single", "1", 16, "two")]
    cells += [Cell("cls[all]", "all", "0-1", 16, "sum"), Cell("random[0]", "random", "", 16, "r0")]
    data = repairs_data(cells, tmp_path, 16)
    assert data.table["of_wrong_low"].min() > 0.4  # all of it regression to the mean
    told = layers_answer(data, pd.DataFrame())
    assert told.count("The sum is not shown to differ from") in (2, 4) and "answers more" not in told


def test_without_the_sum_the_error_says_what_the_study_has(tmp_path, cells):
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
    assert legend.get_texts()[0].get_text() == "broken by the sum"
    assert "n = 6 questions about 3 images" in repairs_figure(repairs_data(cells, tmp_path, 16)).get_supxlabel()


def test_sinks_have_an_interval_per_signal_and_layer():
    data = sinks_data(frame({("cls", "0"): [0.1, 0.3], ("random", ""): [0.1, 0.1], ("occlusion", ""): [np.nan] * 2}))
    assert list(data["signal"]) == ["cls", "random"]
    row = data.iloc[0]
    assert row["sink_share"] == pytest.approx(0.2)
    assert row["sink_share_low"] < 0.1 and row["sink_share_high"] > 0.3  # of two images nearly nothing is known
    assert (row["n"], row["images"]) == (2, 2)


def test_a_model_without_sinks_is_said_to_have_none():
    data = sinks_data(frame({("cls", "0"): [0.0, 0.0], ("random", ""): [0.0, 0.0]}))
    ax = draw_sinks(data, ("cls",), Figure().subplots())
    assert "Dashed" not in sinks_figure(data).get_supxlabel()  # there is nothing to explain
    assert [text.get_text() for text in ax.texts] == ["no patch is a sink"] and not ax.lines
    assert len(sinks_figure(data).axes) == 2
    table = pd.DataFrame([{"layer": 1, "broken": 0.0, "wrong": 0, "of_wrong": np.nan}])
    told = layers_answer(Repairs(table, "0-1", 16, 6, 3, 0), data)
    assert "the last layer, 1, answers all questions itself" in told
    assert "This model has no sinks" in told


def test_the_answer_counts_what_the_sum_repairs(tmp_path, cells):
    told = layers_answer(repairs_data(cells, tmp_path, 16), pd.DataFrame())
    assert "of the 3 questions that the worst layer, 0, gets wrong the sum answers 66.7 % [" in told
    assert "it breaks 1 of the 3 others" in told
    assert "Of the same questions are answered: 100.0 % [" in told
    assert "] with layer 1, the best other one on all questions. The sum is not shown to differ from layer 1: " in told
    assert "random patches" not in told  # there are none


def test_sinks_are_claimed_where_the_layer_exceeds_random_patches_pair_by_pair(tmp_path, cells):
    rng = np.random.default_rng(1)
    even = rng.random(60) * 0.4  # images differ more than layers do: only pairs tell these apart
    shares = {
        "0": even + 0.05 + rng.normal(0, 0.02, 60).clip(-0.05, 0.1),
        "1": even + rng.normal(0, 0.02, 60),
        "2": even * 0.8,
    }
    data = sinks_data(
        frame({("random", ""): list(even)} | {("cls", layer): list(some.clip(0, 1)) for layer, some in shares.items()})
    )
    rows = data[data["signal"] == "cls"]
    raw = []
    for _, row in rows.iterrows():
        delta = shares[row["layers"]].clip(0, 1) - even
        assert row["difference"] == pytest.approx(delta.mean())
        means = delta[np.random.default_rng(2).integers(0, 60, (4000, 60))].mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
        assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.15 * (high - low))
        raw.append(stats.permutation_test((delta,), np.sum, permutation_type="samples", rng=0).pvalue)
    assert rows["p_holm"].to_numpy() == pytest.approx(multipletests(raw, method="holm")[1], abs=0.01)
    assert data.loc[data["signal"] == "random", "p_holm"].isna().all()
    told = layers_answer(repairs_data(cells, tmp_path, 16), data)
    assert f"The layer with most mass on sinks is 0: {100 * shares['0'].mean():.1f} % [" in told
    assert "Holm-corrected over the 3 layers: more at layer 0 (+" in told
    assert "; less at layer 2 (-" in told and "; not shown to differ at layer 1 (" in told
    assert len(sinks_figure(data).axes) == 2


def test_without_random_patches_no_layer_is_compared(tmp_path, cells):
    told = layers_answer(repairs_data(cells, tmp_path, 16), sinks_data(frame({("received", "0"): [0.1, 0.3]})))
    assert "Random patches, which would tell an even share, were not measured." in told
