import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from matplotlib.figure import Figure

from foveate.analysis.bias.attention_maps import (
    OCCLUSION,
    AttentionMap,
    attention_data,
    attention_figure,
    attention_table,
    draw_attention_map,
    shown_keys,
)
from foveate.analysis.bias.measurement import grid_of, measurement, samples_of
from foveate.bias.tables import TableFolder
from foveate.core.errors import DataError
from foveate.data.load import data_hash, load_samples

GRID, LIMIT = (12, 12), 24  # patches; questions about two images
SIGNALS = [("cls", "0"), ("cls", "1"), ("cls", "2"), ("cls", "3"), ("cls sum", "0-3"), ("prompt", "0"), ("prompt", "1")]
SIGNALS += [("response", "0"), ("response", "0-1"), ("evidence", "")]


PLAN = "BiasPlan(keep=0.11, side=6, shares=(0.05,), head_rows=True)"


def write(folder: TableFolder, plan: str = PLAN, grid: tuple[int, ...] = GRID) -> None:
    samples = load_samples("scenes", "test", LIMIT)
    facts = {"checkpoint": "abc", "data": "scenes", "split": "test", "data_hash": data_hash(samples), "plan": plan}
    facts |= {"grid": list(grid)}
    rng = np.random.default_rng(0)
    folder.begin(facts)
    ids, images = [s.id for s in samples], [s.image_id for s in samples]
    drop = np.abs(rng.normal(0, 0.1, (LIMIT, 4)))
    drop[5] = [-1, 3, 0, 1]  # of patches in quarters of the image: the upper right matters most
    answers = {"answer": ["red"] * LIMIT, "score": [1.0] * (LIMIT - 1) + [0.0]}
    table = {"sample_id": ids, "image_id": images, "kind": [s.kind for s in samples]} | answers
    table |= {"question": [s.question for s in samples], "reference": [s.references[0] for s in samples]}
    maps = [
        {
            "sample_id": name,
            "image_id": image,
            "signal": signal,
            "layers": layers,
            "map": rng.random(np.prod(grid or GRID)),
        }
        for name, image in zip(ids, images, strict=True)
        for signal, layers in SIGNALS
    ]
    folder.append(
        {"samples": pa.table(table | {"drop": drop.tolist()}), "maps": pa.Table.from_pandas(pd.DataFrame(maps))}
    )
    folder.finish(ids)


@pytest.fixture
def folder(tmp_path) -> TableFolder:
    made = TableFolder(tmp_path / "bias" / "one")
    write(made)
    return made


def summary(**values: float) -> pd.DataFrame:
    names = ("evidence_recall", "block_share", "overlap_response", "effective_tokens")
    known = [("cls", "0", 0.2), ("cls", "1", 0.3), ("response", "0-1", 0.6), ("random", "", 0.1)]
    rows = []
    for signal, layers, value in known:
        row = {"signal": signal, "layers": layers, "n": 24, "images": 2}
        for name in names:
            row |= {name: value, f"{name}_low": value - 0.05, f"{name}_high": value + 0.05, f"{name}_n": 24}
        rows.append(row)
    return pd.DataFrame(rows)


def test_only_a_finished_measurement_of_the_model_is_found(tmp_path, folder):
    assert measurement(tmp_path, checkpoint="abc").folder == folder.folder
    assert measurement(tmp_path, "one").folder == folder.folder
    for name, checkpoint in ((None, "other"), ("two", None)):
        with pytest.raises(DataError, match=r"no finished bias measurement.*run `make bias` first"):
            measurement(tmp_path, name, checkpoint)
    (folder.folder / "DONE").unlink()
    with pytest.raises(DataError, match="run `make bias` first"):
        measurement(tmp_path)


def test_images_are_those_of_the_measured_questions(folder):
    assert len(samples_of(folder)) == LIMIT
    with pytest.raises(DataError, match="seed 1 gives: give the seed of that run"):
        samples_of(folder, seed=1)


def test_columns_are_first_middle_and_last_layers_sums_the_whole_response_and_occlusion(folder):
    assert shown_keys(folder) == [
        *(("cls", layer) for layer in "023"),
        ("cls sum", "0-3"),
        ("prompt", "0"),
        ("prompt", "1"),
        ("response", "0-1"),
        OCCLUSION,
    ]


def test_the_first_example_has_the_largest_loss_and_others_are_of_other_kinds(folder):
    examples = attention_data(folder, samples_of(folder), [("cls", "0"), OCCLUSION], rows=3)
    assert examples[0].question == load_samples("scenes", "test", LIMIT)[5].question
    attention, occlusion = examples[0].maps
    assert attention.times.mean() == pytest.approx(1)
    assert occlusion.times[:6, 6:] == pytest.approx(3)  # 3 of 4 nats on a quarter of the patches
    assert occlusion.times[:6, :6] == pytest.approx(0)  # more likely without it is no importance
    assert len({example.question for example in examples}) == 3


def test_images_and_maps_of_a_rectangular_grid_have_its_rows_and_columns(tmp_path):
    made = TableFolder(tmp_path / "bias" / "wide")
    write(made, grid=(6, 12))
    maps = made.read("maps").to_pandas().set_index(["sample_id", "signal", "layers"])["map"]
    example = attention_data(made, samples_of(made), [("cls", "0"), OCCLUSION], rows=1)[0]
    height, width = example.pixels.shape[:2]
    assert (height % 6, width % 12, example.evidence.shape) == (0, 0, (6, 12))
    asked = made.read("samples").to_pandas()
    name = asked.loc[asked["question"] == example.question, "sample_id"].iloc[0]
    own = np.asarray(maps[name, "cls", "0"])
    assert example.maps[0].times == pytest.approx((own / own.sum() * 72).reshape(6, 12))
    figure = attention_figure([example])
    assert figure.axes[1].get_images()[0].get_array().shape[:2] == (height, width)


def test_a_measurement_without_a_grid_is_refused(tmp_path):
    made = TableFolder(tmp_path / "bias" / "old")
    write(made, grid=())
    with pytest.raises(DataError, match="has no 'grid' of patches: measure this configuration again"):
        grid_of(made)


def test_patches_below_an_even_share_stay_clear():
    times = np.array([[0.5, 8.0], [np.nan, 2.0]])
    pixels = np.random.default_rng(0).random((4, 4, 3))
    ax = draw_attention_map(pixels, AttentionMap(("cls", "0"), times), np.zeros((2, 2), bool), Figure().subplots())
    heat = ax.images[1]
    alpha = np.asarray(heat.get_alpha())
    assert (alpha[:2, :2] == 0).all() and (alpha[2:, :2] == 0).all()
    assert np.asarray(heat.get_array())[0, 2] == 1 and np.asarray(heat.get_array())[2, 2] == pytest.approx(1 / 3)
    assert len(draw_attention_map(pixels, None, np.eye(2, dtype=bool), Figure().subplots()).images) == 1


def test_figure_has_a_row_per_question_and_says_how_they_were_chosen(folder):
    figure = attention_figure(attention_data(folder, samples_of(folder), shown_keys(folder), rows=2))
    assert len(figure.axes) == 2 * (2 + len(shown_keys(folder))) + 1
    assert "so they are not representative" in figure.get_supxlabel().replace("\n", " ")


def test_the_table_rests_on_all_questions(folder):
    keys = [("cls", "0"), ("cls", "1"), ("response", "0-1"), OCCLUSION]
    table = attention_table(summary(), keys, folder)
    assert "| response blocks 0-1 | 60.0 [55.0, 65.0] | 60.0 [55.0, 65.0] | itself |" in table
    assert "occlusion" not in table and "| random |" in table
    assert "n = 24 questions about 2 images;" in table and "The top is 11.0 % of the patches." in table


def test_a_measurement_without_a_plan_is_refused(tmp_path):
    made = TableFolder(tmp_path / "bias" / "two")
    write(made, plan="")
    assert json.loads((made.folder / "config.json").read_text())["plan"] == ""
    with pytest.raises(DataError, match="has no 'side' in its plan"):
        attention_data(made, samples_of(made), [OCCLUSION])
