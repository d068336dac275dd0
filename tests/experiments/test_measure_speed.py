"""The command as a user runs it, on tiny random models and a few rounds."""

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from foveate.analysis.speed.data import read_rounds
from foveate.testing.checkpoints import save_family
from tests.scripts import run
from tests.tiers import extended

QUICK = ("--methods", "random", "fastv", "--keep", "0.5", "9", "--new-tokens", "2", "--rounds", "2")


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("speed")
    result = run("measure_speed", "--model", tiny, *QUICK, "--batch", "1", "3", folder=folder)
    assert result.returncode == 0, result.stderr
    return folder / "runs/measure_speed", result.stdout


def test_it_writes_what_its_help_promises(finished):
    folder, printed = finished
    assert {file.name for file in folder.iterdir()} == {"rounds.parquet", "table.csv", "table.md", "speed.png"}
    with Image.open(folder / "speed.png") as image:
        assert image.width > 900
    assert "Images of 96 pixels, batch 3\n" in printed
    assert f"Tables and figure: {Path('runs/measure_speed')}" in printed


def test_both_baselines_stand_beside_every_setting(finished):
    table = pd.read_csv(finished[0] / "table.csv")
    settings = [("full", 144), ("random", 72), ("random", 9), ("fastv", 72)]
    lone = [("one by one", budget) for budget in (144, 72, 9)]
    for batch in (1, 3):
        rows = table[table["batch"] == batch]
        assert list(zip(rows["method"], rows["budget"], strict=True)) == [*settings, *lone]
    assert (table["rounds"] == 2).all()
    assert table.loc[table["method"] != "one by one", "vs_one_by_one"].notna().all()
    assert table.loc[~table["method"].isin(("full", "one by one")), "speedup"].notna().all()


def test_the_rounds_store_the_conditions_of_the_measurement(finished, tiny):
    rounds, conditions = read_rounds(finished[0] / "rounds.parquet")
    assert (conditions.model, conditions.kernel, conditions.dtype) == (tiny, "sdpa", "float32")
    assert conditions.device and conditions.date and "torch" in conditions.versions
    assert list(conditions.left_out) == ["fastv at 9 of 144 tokens"]
    assert "cannot come near 9 equivalent tokens" in conditions.left_out["fastv at 9 of 144 tokens"]
    parts = [f"{part}_ms" for part in ("vision", "scoring", "projector", "prefill", "decode")]
    own = rounds[rounds["method"] != "one by one"]
    assert own[parts].sum(axis=1).tolist() == pytest.approx(own["total_ms"].tolist())
    assert len(rounds) == 2 * 2 * 7


@extended("every")
def test_a_model_that_accepts_any_size_is_timed_on_images_of_several(tmp_path):
    model = str(save_family("Qwen2.5-VL", tmp_path / "model"))
    result = run(
        "measure_speed", "--model", model, *QUICK[:5], *QUICK[6:], "--size", "16", "32", "--batch", "2", folder=tmp_path
    )
    assert result.returncode == 0, result.stderr
    table = pd.read_csv(tmp_path / "runs/measure_speed/table.csv")
    full = table[table["method"] == "full"]
    assert full["size"].tolist() == [16, 32]
    assert full["equivalent_tokens"].tolist() == [4, 16]
    assert table.loc[table["method"] == "random", "equivalent_tokens"].tolist() == [2, 8]
    assert "one by one: the loop of stock calls is for LLaVA-1.5" in result.stdout


def test_videos_are_timed_by_their_number_of_frames(tmp_path):
    model = str(save_family("LLaVA-OneVision", tmp_path / "model"))
    options = ("--methods", "random", "--keep", "0.5", "--new-tokens", "2", "--rounds", "1", "--batch", "1", "2")
    result = run("measure_speed", "--model", model, *options, "--frames", "2", "4", "--size", "24", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    table = pd.read_csv(tmp_path / "runs/measure_speed/table.csv")
    full = table[table["method"] == "full"]
    shown = full[["frames", "batch", "equivalent_tokens"]].values.tolist()
    assert shown == [[2, 1, 19], [2, 2, 19], [4, 1, 37], [4, 2, 37]]
    assert "Videos of 4 frames of 24 pixels, batch 2\n" in result.stdout
    refused = run("measure_speed", *options, "--frames", "2", folder=tmp_path)
    assert refused.returncode == 2 and "takes images, not videos" in refused.stderr
