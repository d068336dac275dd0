"""Several data sets on several models in one comparison: what is left, what it is said to need, and the summary."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from foveate.core.finished import NAME
from foveate.testing.checkpoints import save_family
from foveate.testing.families import FAMILIES
from tests import scripts
from tests.data import tables
from tests.tiers import extended

WORDS = ("--methods", "divprune", "--keep", "0.25", "--max-new-tokens", "3")
PAIR = ("LLaVA-1.5", "Qwen2.5-VL")


def start(*options, folder):
    cache = f"import datasets; datasets.config.HF_DATASETS_CACHE = {str(folder / 'cache')!r}"
    return scripts.start("compare_methods", *options, folder=folder, before=cache)


def run(*options, folder):
    started = start(*options, folder=folder)
    started.wait()
    return started


def parts(folder: Path) -> dict[Path, int]:
    return {part: part.stat().st_mtime_ns for part in folder.glob("runs/records/*/part-*")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Returns the folder of a grid that was killed after its first comparison, and resumed, and what it left then."""
    folder = tmp_path_factory.mktemp("grid")
    tables.pope(folder / "pope.parquet", images=2)
    tables.mme(folder / "mme.parquet")
    for name in PAIR:
        save_family(name, folder / name)
    options = ("--data", "pope:pope.parquet", "mme:mme.parquet", "--model", *PAIR, *WORDS)
    killed = start(*options, folder=folder)
    try:
        scripts.wait_for(killed, (folder / "runs/compare_methods_pope_LLaVA-1.5/table.csv").exists)
    finally:
        killed.kill()
    assert killed.wait() and not (folder / "runs/compare_methods/summary.csv").exists()
    before = parts(folder)
    ended = run(*options, folder=folder)
    assert ended.returncode == 0, ended.stderr
    return folder, options, killed.stderr, ended, before


def test_time_and_disk_space_are_said_before_the_first_run(finished):
    told = finished[2].splitlines()[0]
    found = re.fullmatch(
        r"data sets: 2, models: 2; 4 comparisons with (\d+) runs of ([\d,]+) answers are left\. In one process they "
        r"need about (.+), if every run takes as long as one without compression, and (.+) of the (.+) that are free "
        r"for runs",
        told,
    )
    assert found, told
    runs, answers = int(found[1]), int(found[2].replace(",", ""))
    assert runs % 4 == 0 and answers == runs // 2 * (12 + 8)  # 2 x 6 questions of POPE, 8 of MME
    assert found[4].endswith(" MB") and found[5].endswith(" GB")


def test_a_killed_grid_goes_on_with_what_is_left(finished):
    folder, _, killed, ended, before = finished
    left = [int(re.search(r"with (\d+) runs", text)[1]) for text in (killed, ended.stderr.splitlines()[0])]
    assert left[1] <= left[0] * 3 / 4
    after = parts(folder)
    assert before and before.items() <= after.items()
    assert "Nothing was left to do: all" in ended.stderr


def test_every_data_set_and_model_has_a_table_and_all_have_a_summary(finished):
    folder, _, _, ended, _ = finished
    for name in ("pope", "mme"):
        for model in PAIR:
            table = pd.read_csv(folder / f"runs/compare_methods_{name}_{model}/table.csv")
            assert {"full", "blind", "divprune", "random"} <= set(table["method"])
    summary = pd.read_csv(folder / "runs/compare_methods/summary.csv")
    assert summary["model"].unique().tolist() == ["all", *PAIR]
    assert set(summary["budget"]) == {"25 %"} and "full" not in set(summary["method"])
    every = summary[summary["model"] == "all"].set_index("method")
    assert (every["tasks"] == 4).all() and (every["n"] == 20).all()
    assert every["mean_rank"].mean() == pytest.approx((1 + every["ranked"].iloc[0]) / 2, abs=0.01)
    own = _accuracies(folder)
    ranks = [accuracy[list(every.index)].rank(ascending=False) for accuracy in own]
    assert every["mean_rank"].to_dict() == pytest.approx(pd.concat(ranks, axis=1).mean(axis=1).to_dict(), abs=1e-5)
    assert "# Summary" in ended.stdout and "Summary: runs/compare_methods/summary.md" in ended.stdout
    with Image.open(folder / "runs/compare_methods/summary.png") as image:
        assert image.width > 900
    assert not list(folder.glob("runs/*/trainings_*"))  # these models are no trainings of one recipe


def _accuracies(folder: Path) -> list[pd.Series]:
    files = [folder / f"runs/compare_methods_{name}_{model}/table.csv" for name in ("pope", "mme") for model in PAIR]
    return [pd.read_csv(file).set_index("method")["accuracy"] for file in files]


def test_the_encodings_of_a_data_set_are_shared_by_all_methods(finished):
    stored = list((finished[0] / "runs/encodings").glob("*.arrow"))
    assert len(stored) == 4 + 2  # and smaller images, by the image processor of one of the models


def test_a_finished_grid_is_remembered(finished):
    folder, options, _, ended, _ = finished
    before = parts(folder)
    again = run(*options, folder=folder)
    assert again.stdout == ended.stdout and parts(folder) == before
    assert "Nothing was left to do: this command has finished" in again.stderr


@extended("every")
def test_a_finished_grid_that_is_forgotten_computes_nothing(finished):
    folder, options, _, ended, _ = finished
    before = parts(folder)
    (folder / "runs/compare_methods" / NAME).unlink()
    again = run(*options, folder=folder)
    assert again.returncode == 0, again.stderr
    assert again.stdout == ended.stdout and parts(folder) == before
    assert "are left" not in again.stderr


@extended("every")
def test_three_benchmarks_are_compared_on_a_tiny_model_of_every_family(tmp_path):
    models = list(FAMILIES)
    tables.pope(tmp_path / "pope.parquet", images=2)
    tables.mme(tmp_path / "mme.parquet")
    tables.textvqa(tmp_path / "textvqa.parquet")
    for name in models:
        save_family(name, tmp_path / name)
    data = ("pope:pope.parquet", "mme:mme.parquet", "textvqa:textvqa.parquet")
    ended = run("--data", *data, "--model", "reference", *models, *WORDS, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    summary = pd.read_csv(tmp_path / "runs/compare_methods/summary.csv")
    assert set(summary["model"]) == {"all", "reference", *(name.replace(" ", "_") for name in models)}
    assert (summary.loc[summary["model"] == "all", "tasks"] == 3 * (1 + len(models))).all()
    assert "divprune" in set(summary["method"]) and np.isfinite(summary["mean_rank"]).all()
    assert len(list(tmp_path.glob("runs/compare_methods_*/table.csv"))) == 3 * (1 + len(models))
