"""The scripts as a user runs them, on a tiny random model with a few questions."""

import signal
import sqlite3
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from foveate.options import Options
from foveate.testing.tiny import save_tiny_llava
from tests.scripts import run, start, wait_for
from tests.tiers import extended

FILES = {"table.csv", "table.md", "accuracy_by_layer.png", "frontier.png", "kept_patches.png", "study.db"}
QUICK = ("--limit", "12", "--keep", "36", "7", "--layers", "1", "7")


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("ablation")
    result = run("ablate_layers", "--model", tiny, *QUICK, folder=folder)
    assert result.returncode == 0, result.stderr
    return folder / "runs", result.stdout


def test_the_ablation_writes_what_its_help_promises(finished):
    runs, printed = finished
    assert {file.name for file in (runs / "ablate_layers").iterdir() if file.is_file()} >= FILES
    assert "\n\nToo few images for any test (n = 2)." in printed
    assert "(7 questions) and reported on the other half: n = 5 questions about 1 images" in printed
    table = pd.read_csv(runs / "ablate_layers" / "table.csv", dtype={"layers": str})
    columns = "scorer layers keep n accuracy ci_low ci_high delta_vs_full delta_ci_low delta_ci_high delta_vs_random"
    columns += " p_vs_random_holm evidence_recall agreement_with_full"
    assert set(columns.split()) <= set(table.columns)
    rows = {"cls[1]", "cls[7]", "cls[1:]", "cls[all]", "random", "uniform", "evidence"}
    rows |= {"saturation", "contrast", "edges"}
    assert set(table["scorer"]) == rows | {"full", "blind"}
    assert len(table) == 2 * len(rows) + 2
    assert (table["n"] == 12).all()
    full = table[table["scorer"] == "full"].iloc[0]
    assert full["agreement_with_full"] == full["evidence_recall"] == 1
    for name in ("accuracy_by_layer.png", "frontier.png", "kept_patches.png"):
        with Image.open(runs / "ablate_layers" / name) as image:
            assert image.width > 900


def test_the_dashboard_finds_the_figures_among_the_artifacts(finished):
    folder = finished[0] / "ablate_layers"
    assert len(list((folder / "artifacts").iterdir())) == 3 + 2 * 30  # of the study, and two of every trial
    with sqlite3.connect(folder / "study.db") as database:
        assert database.execute("select count(*) from trials where state = 'COMPLETE'").fetchone() == (2 * 14 + 2,)


def test_a_second_run_computes_nothing_and_changes_no_byte_of_the_table(finished, tiny):
    runs, printed = finished
    table = (runs / "ablate_layers" / "table.csv").read_bytes()
    parts = {part: part.stat().st_mtime_ns for part in runs.glob("records/*/part-*")}
    for remembered in (True, False):  # by the stored report, or by the finished study
        if not remembered:
            (runs / "ablate_layers" / "finished.json").unlink()
        again = run("ablate_layers", "--model", tiny, *QUICK, folder=runs.parent)
        assert again.returncode == 0, again.stderr
        assert again.stdout == printed
        (line,) = [line for line in again.stderr.splitlines() if "othing was left to do" in line]
        assert ("trials" in line) is not remembered
    assert (runs / "ablate_layers" / "table.csv").read_bytes() == table
    assert {part: part.stat().st_mtime_ns for part in runs.glob("records/*/part-*")} == parts


def test_several_models_have_studies_of_their_own_and_a_table_over_them(tiny, tmp_path):
    other = str(save_tiny_llava(tmp_path / "other", seed=1))
    quick = ("--limit", "12", "--keep", "9", "--layers", "1")
    result = run("ablate_layers", "--model", tiny, other, *quick, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    first, second = (tmp_path / "runs" / f"ablate_layers_{Path(model).name}" for model in (tiny, other))
    table = pd.read_csv(first / f"trainings_{Path(tiny).name}_other.csv").set_index("scorer")
    for folder, name in ((first, Path(tiny).name), (second, "other")):
        own = pd.read_csv(folder / "table.csv").set_index("scorer")["accuracy"]
        assert (table[name] - own.reindex(table.index)).abs().max() < 2e-6
    assert f"Mean over 2 trainings ({Path(tiny).name}, other) on the same 12 questions" in result.stdout


@extended("moments")
def test_a_killed_ablation_ends_in_the_same_bytes(finished, tiny, tmp_path):
    process = start("ablate_layers", "--model", tiny, *QUICK, "--batch-size", "7", folder=tmp_path)
    wait_for(process, lambda: len(list(tmp_path.glob("runs/records/*/DONE"))) >= 4)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "runs/ablate_layers/table.csv").exists()
    result = run("ablate_layers", "--model", tiny, *QUICK, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    expected = (finished[0] / "ablate_layers" / "table.csv").read_bytes()
    assert (tmp_path / "runs/ablate_layers/table.csv").read_bytes() == expected


def test_the_budget_ablation_runs_along_a_fine_axis(tiny, tmp_path):
    options = ("--scorers", "cls[-1]", "cls[2:]", "--keep", "20", "10", "0.03", "--limit", "11", "--out", "elsewhere")
    result = run("ablate_budgets", "--model", tiny, *options, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    table = pd.read_csv(tmp_path / "elsewhere/ablate_budgets/table.csv")
    assert sorted(table.loc[table["scorer"] == "cls[2:]", "keep"]) == [4, 10, 20]
    assert (tmp_path / "elsewhere/ablate_budgets/frontier.png").exists()


def test_help_explains_every_option():
    result = run("ablate_layers", "--help")
    assert result.returncode == 0
    for option in "model data split limit keep layers batch-size seed study storage out device".split():
        assert f"--{option}" in result.stdout
    assert "Budgets: patches to keep" in " ".join(result.stdout.split())


def test_bad_input_gets_one_clear_line_from_a_process_of_its_own(tiny, tmp_path):
    """Other invalid values are tested without a process of their own, in test_values.py."""
    result = run("ablate_layers", "--model", tiny, "--limit", "11", "--keep", "500", folder=tmp_path)
    last = result.stderr.strip().splitlines()[-1]
    assert result.returncode == 2
    assert last.startswith("error: keep=500: an image has 144 patches")
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "runs").exists()


def test_another_configuration_under_the_same_name_is_refused(finished, tiny):
    options = (*QUICK, "--limit", "19", "--study", "ablate_layers")
    result = run("ablate_layers", "--model", tiny, *options, folder=finished[0].parent)
    assert result.returncode == 2
    assert "error: study 'ablate_layers' exists with another configuration" in result.stderr
    assert "limit: 12 there, 19 here" in result.stderr


def test_fresh_moves_the_old_study_aside(finished, tiny):
    """Runs last, because the other tests read the study."""
    runs, printed = finished
    result = run("ablate_layers", "--model", tiny, *QUICK, "--fresh", folder=runs.parent)
    assert result.returncode == 0, result.stderr
    assert result.stdout == printed
    table = "table.csv"
    assert (runs / "ablate_layers.old-1" / table).read_bytes() == (runs / "ablate_layers" / table).read_bytes()


@pytest.mark.parametrize(
    ("given", "name", "existing"),
    [
        ({}, "usual", "beside"),
        ({"study": "mine"}, "mine", "refuse"),
        ({"study": "usual"}, "usual", "refuse"),
        ({"fresh": True}, "usual", "aside"),
        ({"study": "mine", "fresh": True}, "mine", "aside"),
    ],
    ids=str,
)
def test_a_study_that_exists_is_treated_as_its_options_say(given, name, existing):
    options = Options("usual", **given)
    assert (options.name, options.existing) == (name, existing)


def test_all_questions_of_a_benchmark_are_asked_without_a_limit():
    limits = [config.limit for _, config in Options("usual", 1500, data=("scenes", "pope:x")).each]
    assert limits == [1500, None]
    given = Options("usual", 1500, data=("scenes", "pope:x"), limit=7)
    assert [config.limit for _, config in given.each] == [7, 7]


def test_models_that_cannot_be_used_are_named(tmp_path):
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    result = run("ablate_layers", "--model", "bert", folder=tmp_path)
    assert "error: model 'bert' is of type 'bert'; supported: llava" in result.stderr
