"""The frontier's table and its best mixes, against counts by hand."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from foveate.analysis.cells import Cell
from foveate.analysis.comparison.data import Comparison
from foveate.analysis.frontier.data import (
    Frontier,
    at_equal_time,
    at_equal_tokens,
    chosen,
    frontier_table,
    medians,
)
from foveate.analysis.frontier.figures import draw_plane, frontier_figure, planes_data, times_data
from foveate.analysis.held_out import choosing_half
from foveate.analysis.statistics import difference_interval
from foveate.profiling.shapes import DecoderShape

QUESTIONS = 120
# share of right answers by method and budget, tokens of an image before the method, and milliseconds
CELLS = {
    ("full", 144): (0.9, 144, 20.0),
    ("random", 36): (0.4, 144, 10.0),
    ("random", 16): (0.3, 144, 8.0),
    ("downsample", 36): (0.5, 36, 4.0),
    ("downsample", 16): (0.4, 16, 3.0),
    ("m", 36): (0.6, 144, 10.0),
    ("m", 16): (0.5, 144, 8.0),
    ("m@72", 36): (0.8, 72, 9.0),
    ("m@72", 16): (0.55, 72, 7.5),
    ("m@50", 36): (0.7, 50, 7.9),
    ("m@50", 16): (0.6, 50, 6.0),
}


@pytest.fixture(scope="module")
def frames():
    order = np.random.default_rng(0).permutation(QUESTIONS)
    found = {}
    for (method, keep), (share, _, _) in CELLS.items():
        score = (order < share * QUESTIONS).astype(float)
        frame = pd.DataFrame({"score": score, "sample_id": np.arange(QUESTIONS).astype(str)})
        frame["image_id"], frame["kind"], frame["seeds"] = frame["sample_id"], "k", 1
        frame["runs"] = [[value] for value in score]
        for name in ("evidence_recall", "things_kept", "agreement", "tokens_given", "tokens_left", "prefill_gflops"):
            frame[name] = 1.0
        frame["equivalent_tokens"] = float(keep)
        found[Cell(method, method, "", keep, f"{method}{keep}")] = frame
    return found


@pytest.fixture(scope="module")
def frontier(frames):
    roles = {cell.family: "vision" if cell.family.startswith("m") else "control" for cell in frames}
    comparison = Comparison(list(frames), roles, DecoderShape(4, 128, 320, 4, 4, 32), 144, {}, {})
    sizes = {"m": 144, "random": 144, "full": 144, "downsample": 144, "m@72": 72, "m@50": 50}
    return Frontier(comparison, sizes, {key: ms for key, (_, _, ms) in CELLS.items()})


def test_the_table_has_every_cell_with_its_image_and_its_differences(frames, frontier):
    table = frontier_table(frames, frontier).set_index(["method", "budget"])
    assert len(table) == len(CELLS)
    for key, (share, tokens, ms) in CELLS.items():
        assert table.loc[key, ["accuracy", "image_tokens", "ms"]].tolist() == pytest.approx([share, tokens, ms])
    by_name = {(cell.family, cell.keep): frame for cell, frame in frames.items()}
    mix, alone, small = (by_name[name, 36]["score"] for name in ("m@72", "m", "downsample"))
    row = table.loc[("m@72", 36)]
    for name, rival in (("vs_alone", alone), ("vs_downsample", small)):
        expected = difference_interval(mix, rival, by_name["m", 36]["image_id"])[:3]
        assert row[[name, f"{name}_low", f"{name}_high"]].tolist() == pytest.approx(expected)
    assert np.isnan(table.loc[("m", 36), "vs_alone"]) and np.isnan(table.loc[("full", 144), "vs_downsample"])


@pytest.mark.guards("frontier: the best mix is reported on the images on which it was chosen")
def test_the_best_mix_of_a_budget_is_chosen_on_one_half_and_reported_on_the_other(frames, frontier):
    best = chosen(at_equal_tokens(frames, frontier))
    images = next(iter(frames.values()))["image_id"]
    half = choosing_half(images)
    for keep, name in ((36, "m@72"), (16, "m@50")):
        own = next(frame for cell, frame in frames.items() if (cell.family, cell.keep) == (name, keep))
        assert best[keep]["chosen"] == name
        assert best[keep]["accuracy"] == pytest.approx(own["score"][~half].mean())


@pytest.mark.guards("frontier: cells that take longer than the limit are admitted at equal time")
def test_at_equal_time_only_cells_that_take_no_longer_than_the_method_alone_compete(frames, frontier):
    table = at_equal_time(frames, frontier)
    mixes = table[table["group"] == "best mix"].drop_duplicates("budget").set_index("budget")["chosen"]
    # within 10 ms m@72 to 36 tokens is the best mix, within 8 ms it is too slow, and m@50 to 36 tokens just fits
    assert mixes.tolist() == ["m@72 to 36 tokens", "m@50 to 36 tokens"]
    assert [name[:7] for name in mixes.index] == ["10.00 m", "8.00 ms"]
    rivals = table[(table["group"] == "best mix") & (table["rival"] == "best method alone")]
    assert rivals["rival_chosen"].tolist() == ["m to 36 tokens", "m to 16 tokens"]


def test_without_times_there_is_no_table_at_equal_time(frames, frontier):
    assert at_equal_time(frames, frontier._replace(ms={})).empty
    assert not times_data(frontier_table(frames, frontier._replace(ms={}))).curves


def test_times_are_medians_per_question():
    rounds = pd.DataFrame({"method": "m", "budget": 36, "batch": 4, "total_ms": [8.0, 12.0, 80.0]})
    assert medians(rounds) == {("m", 36): 3.0}


def test_the_figure_shows_every_cell_and_boxes_the_best_mix(frames, frontier):
    table, best = frontier_table(frames, frontier), chosen(at_equal_tokens(frames, frontier))
    (plane,) = planes_data(table, best)
    assert plane.accuracy.index.tolist() == ["144 tokens", "72 tokens", "50 tokens", "downsample", "random"]
    assert plane.accuracy.loc["72 tokens", 36] == pytest.approx(0.8)
    assert {mark[:2] for mark in plane.best} == {("72 tokens", 36), ("50 tokens", 16)}
    ax = draw_plane(plane, Figure().subplots())
    assert {"80.0", "40.0"} <= {text.get_text() for text in ax.texts}
    assert sorted(patch.get_xy() for patch in ax.patches) == [(0, 1), (1, 2)]
    times = times_data(table)
    assert times.full == (pytest.approx(0.9), 20.0) and times.curves["m@50"]["ms"].tolist() == [6.0, 7.9]
    assert len(frontier_figure([plane], times, (QUESTIONS, QUESTIONS)).axes) == 2
