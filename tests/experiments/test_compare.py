"""A new scorer in four steps: write it, name it, compare it with everything, read its row."""

from dataclasses import replace
from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.artifacts import get_all_artifact_meta
from PIL import Image

from foveate.compressors import Identity
from foveate.evaluation import EvalConfig
from foveate.methods import METHODS
from foveate.methods.registry import VIDEO, usual_methods
from foveate.studies.comparison import usual_for
from tests import scripts
from tests.tiers import extended

# a researcher's file, outside the package
SCORER = '''
from dataclasses import dataclass

from foveate.compressors import VisionCompressor
from foveate.core.contracts import Scorer
from foveate.core.needs import Features


@dataclass(frozen=True)
class Unlike(Scorer):
    """Patches that are unlike the mean of all."""

    @property
    def needs(self):
        return (Features(),)

    def score(self, trace):
        features = trace[Features()]
        return (features - features.mean(1, keepdim=True)).norm(dim=2)


def unlike(keep):
    return VisionCompressor(Unlike(), keep)
'''
QUICK = ("--methods", "fastv", "mine.scorer:unlike", "cdpruner", "--keep", "0.5", "16", "--limit", "22")
FILES = {"study.db", "table.csv", "table.md", "frontier.png", "ranking.png", "kept_patches.png"}


def run(*options, folder):
    return scripts.run("compare_methods", *options, folder=folder, environment={"PYTHONPATH": str(folder)})


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("comparison")
    (folder / "mine").mkdir()
    (folder / "mine" / "scorer.py").write_text(SCORER)
    result = run("--model", tiny, *QUICK, folder=folder)
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def test_a_new_scorer_stands_beside_published_methods_and_controls(finished):
    folder, printed = finished
    table = pd.read_csv(folder / "runs/compare_methods/table.csv")
    controls = {"random", "uniform", "pool", "downsample", "saturation", "contrast", "edges", "random_inside"}
    assert set(table["method"]) == {"full", "blind", *controls, "fastv", "unlike"}
    mine = table[table["method"] == "unlike"].set_index("budget")
    assert mine.index.tolist() == [72, 16]
    assert mine["role"].tolist() == ["vision"] * 2
    assert mine["equivalent_tokens"].tolist() == mine["tokens_left"].tolist() == [72, 16]
    assert mine["p_vs_random_holm"].notna().all()
    assert (table["n"] == 22).all()
    assert table.loc[table["method"] == "random", "seeds"].tolist() == [5, 5]
    assert "Too few images for any test (n = " in printed  # so no verdict is drawn, and none is named


def test_the_comparison_writes_what_its_help_promises(finished):
    folder, printed = finished
    study = folder / "runs/compare_methods"
    assert {file.name for file in study.iterdir() if file.is_file()} >= FILES
    stored = optuna.load_study(study_name="compare_methods", storage=f"sqlite:///{study / 'study.db'}")
    assert len(get_all_artifact_meta(stored)) == 3
    for trial in stored.get_trials(states=(optuna.trial.TrialState.COMPLETE,)):
        assert {meta.filename for meta in get_all_artifact_meta(trial, storage=stored._storage)} == {
            "kept.png",
            "records.parquet",
        }
    for name in ("frontier.png", "ranking.png", "kept_patches.png"):
        with Image.open(study / name) as image:
            assert image.width > 900
    assert "### 16 tokens" in printed


def test_missing_cells_are_reported_with_their_reasons(finished):
    folder, printed = finished
    text = (folder / "runs/compare_methods/table.md").read_text()
    assert "- fastv at 16: fastv cannot come near 16 equivalent tokens" in text
    assert "- cdpruner: " in text
    assert "Cannot run on this model: cdpruner" in printed


@extended("every")
def test_a_second_run_computes_nothing_and_changes_no_byte_of_the_table(finished, tiny):
    folder, printed = finished
    tables = [folder / "runs/compare_methods" / name for name in ("table.csv", "table.md")]
    before = [table.read_bytes() for table in tables]
    parts = {part: part.stat().st_mtime_ns for part in folder.glob("runs/records/*/part-*")}
    again = run("--model", tiny, *QUICK, folder=folder)
    assert again.returncode == 0, again.stderr
    assert again.stdout == printed
    assert [table.read_bytes() for table in tables] == before
    assert {part: part.stat().st_mtime_ns for part in folder.glob("runs/records/*/part-*")} == parts


def test_without_arguments_every_method_takes_part_that_is_for_such_data():
    images, videos = usual_methods(videos=False), usual_methods(videos=True)
    assert images == tuple(name for name in METHODS if name not in VIDEO)
    assert {*VIDEO, "vtc_cls", "fastv", "evidence"} <= set(videos) and len(videos) < len(images)
    clips = EvalConfig(Identity(), data="clips", split="test", limit=2, frames=2)
    assert usual_for(clips) == videos
    assert usual_for(replace(clips, frames_as="images")) == images
    assert usual_for(replace(clips, data="scenes")) == images


def test_an_edited_scorer_is_another_method(finished, tiny):
    """Runs last, because it changes the scorer's file."""
    folder, _ = finished
    source = folder / "mine/scorer.py"
    source.write_text(source.read_text().replace("return (features", "return -(features"))
    result = run("--model", tiny, *QUICK, "--study", "compare_methods", folder=folder)
    assert result.returncode == 2
    assert "exists with another configuration:\n  scorers: changed " in result.stderr
    before = {part.parent for part in folder.glob("runs/records/*/part-*")}
    result = run("--model", tiny, *QUICK, "--study", "again", folder=folder)
    assert result.returncode == 0, result.stderr
    new = {part.parent for part in folder.glob("runs/records/*/part-*")} - before
    assert len(new) == 2  # two budgets of the one method that changed
