import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from foveate.analysis.ablation.figures import (
    accuracy_by_layer_data,
    accuracy_by_layer_figure,
    draw_accuracy_by_layer,
    draw_frontier,
    frontier_data,
    frontier_figure,
)
from foveate.analysis.cells import PIXEL_FILTERS
from foveate.analysis.drawing import Label, label_lines, save_figure

IMPORT = """
import matplotlib
before = dict(matplotlib.rcParams)
import foveate.analysis.ablation.report
from matplotlib import pyplot
assert dict(matplotlib.rcParams) == before
assert pyplot.get_fignums() == []
"""


def test_importing_the_analysis_changes_no_style(tmp_path):
    result = subprocess.run([sys.executable, "-c", IMPORT], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


def test_panel_holds_the_rows_of_its_budget(study):
    data = accuracy_by_layer_data(study.table, 16, feature_layer=4)
    at = study.table[study.table["keep"] == 16].set_index("scorer")["accuracy"]
    assert data.single["accuracy"].to_dict() == {layer: at[f"cls[{layer}]"] for layer in range(6)}
    assert data.suffix["accuracy"].to_dict() == {layer: at[f"cls[{layer}:]"] for layer in range(4)}
    assert set(data.references.index) == {"full", "evidence", "uniform", "random"}
    assert (data.keep, data.patches, data.n, data.images) == (16, 144, 440, 40)


def test_panel_draws_its_points_and_marks_the_feature_layer(study):
    data = accuracy_by_layer_data(study.table, 16, feature_layer=4)
    ax = draw_accuracy_by_layer(data, Figure().subplots())
    points = {tuple(np.round(np.asarray(line.get_ydata(), float), 9)) for line in ax.lines}
    assert tuple(np.round(data.single["accuracy"], 9)) in points
    assert tuple(np.round(data.suffix["accuracy"], 9)) in points
    assert ax.get_title() == "16 of 144 patches (11 %)"
    assert {text.get_text() for text in ax.texts} == {"full", "evidence", "uniform", "random"}
    assert ax.patches[0].get_x() < 4 < ax.patches[0].get_x() + ax.patches[0].get_width()


def test_hairs_end_at_the_left_edge_of_their_names():
    figure = Figure()
    ax = figure.subplots()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    label_lines(ax, [Label(1, 0.5, "a rather long name", "black"), Label(1, 0.5, "b", "black")])
    figure.draw_without_rendering()
    for name in ax.texts:
        hair = name.arrow_patch.get_window_extent()
        assert hair.x1 <= Text.get_window_extent(name).x0 + 1


def test_panel_does_without_controls_and_sums(study):
    table = study.table[study.table["family"] == "single"]
    data = accuracy_by_layer_data(table, 16, feature_layer=4)
    assert data.references.empty
    assert data.suffix.empty
    ax = accuracy_by_layer_figure([data]).axes[0]
    assert ax.get_legend_handles_labels()[1] == ["single layer"]


def test_panels_share_their_heights(study):
    panels = [accuracy_by_layer_data(study.table, keep, feature_layer=4) for keep in (36, 16, 7)]
    axes = accuracy_by_layer_figure(panels).axes
    assert len(axes) == 3
    assert len({ax.get_ylim() for ax in axes}) == 1


def test_frontier_names_the_best_the_feature_layer_and_the_last(study):
    data = frontier_data(study.table, feature_layer=4, depth=6)
    labels = [series.label for series in data.series]
    assert "layer 2 (best single)" in labels
    assert "layer 4 (writes features)" in labels
    assert "layer 5 (last)" in labels
    assert sum("(best sum)" in label for label in labels) == 1
    assert {"sum of all layers", "uniform", "random (5 seeds)", "evidence (oracle)"} <= set(labels)
    assert all(series.points.index.tolist() == [7, 16, 36] for series in data.series)
    assert data.full == study.table["accuracy"].iloc[0]


def test_a_scorer_with_several_roles_is_one_line(study):
    data = frontier_data(study.table, feature_layer=2, depth=3)
    assert [series.label for series in data.series if series.family == "single"] == [
        "layer 2 (best single, writes features, last)"
    ]


def test_frontier_draws_a_line_per_scorer_and_one_for_full(study):
    data = frontier_data(study.table, feature_layer=4, depth=6)
    ax = draw_frontier(data, Figure().subplots())
    assert len(ax.lines) == len(data.series) + 1
    left, right = ax.get_xlim()
    assert left > 36 > 7 > right
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["36\n25 %", "16\n11 %", "7\n5 %"]


def test_pixel_filters_have_distinct_lines(study):
    even = study.table[study.table["family"] == "uniform"]
    filters = [even.assign(scorer=name, family=name) for name in PIXEL_FILTERS]
    table = pd.concat([study.table, *filters], ignore_index=True)
    panel = accuracy_by_layer_data(table, 16, feature_layer=4)
    assert set(panel.references.index) == {"full", "evidence", "uniform", "random", *PIXEL_FILTERS}
    ax = draw_accuracy_by_layer(panel, Figure().subplots())
    assert set(PIXEL_FILTERS) < {text.get_text() for text in ax.texts}
    data = frontier_data(table, feature_layer=4, depth=6)
    lines = {series.label: series.line for series in data.series if series.family in PIXEL_FILTERS}
    assert len(set(lines.values())) == len(lines) == 3
    for figure, expected in ((accuracy_by_layer_figure([panel]), True), (frontier_figure(data), True),
                         (frontier_figure(frontier_data(study.table, 4, 6)), False)):  # fmt: skip
        assert ("without a network" in figure.get_supxlabel().replace("\n", " ")) is expected


def test_drawing_leaves_the_style_of_others_alone(study):
    before = dict(mpl.rcParams)
    frontier_figure(frontier_data(study.table, feature_layer=4, depth=6))
    assert dict(mpl.rcParams) == before


def test_labels_are_moved_apart_and_stay_in_order():
    ax = Figure(figsize=(6, 4)).subplots()
    ax.set_ylim(0, 1)
    label_lines(ax, [Label(1, height, name, "black") for name, height in (("b", 0.5), ("c", 0.51), ("a", 0.1))])
    places = {text.get_text(): text.get_position()[1] for text in ax.texts}
    assert places["a"] == pytest.approx(0.1)
    assert places["c"] - places["b"] > 0.04
    assert (places["b"] + places["c"]) / 2 == pytest.approx(0.505)


def test_the_same_figure_is_saved_as_the_same_bytes(tmp_path, study):
    for name in ("one.png", "two.png"):
        save_figure(frontier_figure(frontier_data(study.table, feature_layer=4, depth=6)), tmp_path / name)
    one = (tmp_path / "one.png").read_bytes()
    assert one == (tmp_path / "two.png").read_bytes()
    assert b"Software" not in one
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.png", "two.png"]
