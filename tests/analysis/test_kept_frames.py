"""Figures of kept patches of videos, from the records of runs."""

from io import BytesIO

import pytest
from PIL import Image

from foveate.analysis.cells import Cell
from foveate.analysis.kept_frames import clips_of, kept_frames_figure
from foveate.analysis.kept_patches import kept_figure
from foveate.compressors import Identity
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.run import cached_load, data_of
from foveate.methods import uniform
from foveate.testing.checkpoints import save_family

FRAMES = 3


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on generated clips: everything, and six patches."""
    folder = tmp_path_factory.mktemp("runs")
    model = str(save_family("LLaVA-OneVision", folder / "model"))
    settings = {"data": "clips", "split": "test", "limit": 3, "frames": FRAMES, "max_new_tokens": 2, "out": folder}
    configs = [EvalConfig(compressor, model, **settings) for compressor in (Identity(), uniform(6))]
    return folder, configs, [evaluate(config) for config in configs]


def test_a_comparison_about_videos_has_a_row_per_method_and_a_column_per_frame(runs):
    folder, configs, records = runs
    names = zip(
        ("full", "uniform"), ("full", "uniform"), ("", ""), (27, 6), (r.folder.name for r in records), strict=True
    )
    cells = [Cell(*name) for name in names]
    videos = clips_of(data_of(configs[0])[0], cached_load(configs[0].model, configs[0].device, configs[0].dtype))
    figure = kept_frames_figure(cells, folder, videos)
    assert figure is not None
    rows, found = [figure.axes[start : start + FRAMES] for start in (0, FRAMES)], records[1].read().to_pylist()
    assert [row[0].get_ylabel().split("\n")[0] for row in rows] == ["all patches", "uniform"]
    kept = [[int(ax.get_title().rpartition(" ")[2]) for ax in row] for row in rows]
    (chosen,) = [row for row in found if figure.get_suptitle().replace("\n", " ").startswith(row["question"])]
    assert kept[0] == [9] * FRAMES
    assert kept[1] == [sum(patch // 9 == frame for patch in chosen["kept"]) for frame in range(FRAMES)]
    assert kept_frames_figure(cells, folder, {}) is None


def test_a_run_about_videos_has_a_figure_of_its_first_question(runs):
    _, configs, records = runs
    with Image.open(BytesIO(kept_figure(configs[1], records[1].read()))) as png:
        assert png.width > png.height > 100
    failed = records[1].read().to_pandas().assign(error="broken")
    assert kept_figure(configs[1], records[1].read().from_pandas(failed)) == b""
