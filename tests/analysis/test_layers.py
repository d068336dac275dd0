import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.ablation import Cell
from analysis.layers import (
    Repairs,
    draw_repairs,
    draw_sinks,
    layers_answer,
    repairs_data,
    repairs_figure,
    sinks_data,
    sinks_figure,
)
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
        {"signal": signal, "layers": layers, "image_id": f"i{number}", "sink_share": share}
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
    assert row["sink_share_low"] == pytest.approx(0.1) and row["sink_share_high"] == pytest.approx(0.3)
    assert (row["n"], row["images"]) == (2, 2)


def test_a_model_without_sinks_is_said_to_have_none():
    data = sinks_data(frame({("cls", "0"): [0.0, 0.0], ("random", ""): [0.0, 0.0]}))
    ax = draw_sinks(data, ("cls",), Figure().subplots())
    assert [text.get_text() for text in ax.texts] == ["no patch is a sink"] and not ax.lines
    assert len(sinks_figure(data).axes) == 2
    table = pd.DataFrame([{"layer": 1, "broken": 0.0, "wrong": 0, "of_wrong": np.nan}])
    told = layers_answer(Repairs(table, "0-1", 16, 6, 3), data)
    assert "the last layer, 1, answers all questions itself" in told
    assert "This model has no sinks" in told


def test_the_answer_counts_what_the_sum_repairs_and_claims_sinks_only_above_an_even_share(tmp_path, cells):
    repairs = repairs_data(cells, tmp_path, 16)
    surely = sinks_data(frame({("cls", "0"): [0.5, 0.6, 0.7], ("random", ""): [0.1, 0.2, 0.1]}))
    told = layers_answer(repairs, surely)
    assert "of the 3 questions that the worst layer, 0, gets wrong the sum answers 66.7 % [" in told
    assert "it breaks 1 of the 3 others" in told
    assert "60.0 % [50.0, 70.0], more than an even share; of random patches 13.3 % are sinks" in told
    level = sinks_data(frame({("cls", "0"): [0.0, 0.3], ("random", ""): [0.1, 0.2]}))
    assert "not surely more than an even share" in layers_answer(repairs, level)
    assert len(sinks_figure(level).axes) == 2
