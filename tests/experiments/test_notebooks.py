"""The notebooks, executed as `make notebooks` does, on results of a tiny random model."""

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from foveate.bias.measure import measure
from foveate.bias.plan import BiasPlan
from foveate.compressors import Identity
from foveate.core.errors import DataError
from foveate.evaluation import EvalConfig
from foveate.models.families.llava import Tower
from foveate.studies.ablation import Choice, ablate, controls, every_layer, single, suffix
from foveate.studies.comparison import compare
from foveate.studies.study_folder import StudyFolder
from tests.tiers import extended, parametrize

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
REPORTS = {"01_what_scorers_see": 1, "02_perception_bias": 7, "03_layers_and_ensembles": 5, "04_accuracy_and_cost": 3}
TEACHES = "00_compress_a_model"
IMAGES = REPORTS | {TEACHES: 2}
MADE_BY = {"01": ("bias",), "02": ("bias",), "03": ("ablate", "bias"), "04": ("compare", "speed"), "00": ()}
LIBRARIES = {"foveate", "matplotlib", "torch", "IPython"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("notebooks")


@pytest.fixture(scope="module")
def made(tiny, runs) -> Callable[[str], None]:
    """Results of `make bias`, `make ablate`, `make compare` and `make speed`, for 13 questions about two images."""
    config = EvalConfig(Identity(), model=tiny, limit=13, max_new_tokens=3, out=runs)

    @cache
    def make(what: str) -> None:
        match what:
            case "bias":
                measure(config, BiasPlan(side=6, shares=(0.11, 0.25)))
            case "ablate":
                ablate(StudyFolder("ablate_layers", runs), config, choices, (16,))
            case "compare":
                compare(StudyFolder("compare_methods", runs), config, ("fastv", "vtc_cls"), (72,), seeds=(0,))
            case "speed":
                measure_speed = runpy.run_path(str(ROOT / "experiments" / "measure_speed.py"))["main"]
                measure_speed(("vtc_cls",), (72,), batch=(1,), new_tokens=2, rounds=2, model=tiny, out=runs)

    return make


def choices(tower: Tower) -> list[Choice]:
    return [single(0, tower), single(5, tower), suffix(2, tower), every_layer(tower), *controls((0,))]


@pytest.fixture(scope="module")
def kernel(runs) -> Iterator[KernelManager]:
    """One for all notebooks, which saves the time of importing everything again; `execute` empties it first."""
    manager = KernelManager()
    manager.start_kernel(env={**os.environ, "FOVEATE_RUNS": str(runs)}, cwd=str(FOLDER))
    yield manager
    manager.shutdown_kernel(now=True)


def read(name: str) -> NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def execute(name: str, kernel: KernelManager) -> NotebookNode:
    notebook = read(name)
    notebook.cells.insert(0, new_code_cell("%reset -f"))
    NotebookClient(notebook, km=kernel, timeout=300).execute()
    return notebook


def source_of(cell: NotebookNode) -> str:
    """What of it is Python."""
    return re.sub(r"^%.*$", "", cell.source, flags=re.MULTILINE)


def sentences(cells: list[NotebookNode]) -> list[str]:
    """Their text, without headings."""
    text = " ".join(cell.source for cell in cells if cell.cell_type == "markdown")
    said = " ".join(line for line in text.splitlines() if not line.startswith("#"))
    return re.findall(r"[^.]+\.(?=\s|$)", re.sub(r"`[^`]*`|arXiv \d+\.\d+", "x", said))


def kind_of(cell: NotebookNode) -> str:
    return "figure" if re.search(r"_figure\(|^figure$", cell.source, re.MULTILINE) else "other"


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`make` in a fresh folder, in the environment of this test run, which it is not to install anew."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "experiments"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    shutil.copytree(FOLDER, folder / "notebooks", dirs_exist_ok=True)  # a link would lead to the results of this clone
    options = ("--old-file", f"{sys.prefix}/.installed", f"VENV={sys.prefix}")
    return subprocess.run(["make", *options, *words], cwd=folder, capture_output=True, text=True)


def finish(folder: Path, *studies: str) -> None:
    for study in studies:
        (folder / "runs" / study).mkdir(parents=True)
        (folder / "runs" / study / "table.csv").touch()


def shown(cell: NotebookNode) -> str:
    return "\n".join(str(text) for output in cell.outputs for text in output.get("data", {}).values())


def test_all_notebooks_are_known_to_this_test():
    assert sorted(IMAGES) == sorted(path.stem for path in FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("name", IMAGES)
def test_a_notebook_asks_a_question_names_its_sources_and_is_stored_without_outputs(name):
    cells = read(name).cells
    assert len(cells) <= 15
    assert cells[0].cell_type == "markdown" and "?" in cells[0].source.splitlines()[0]
    assert set(re.findall(r"`make (\w+)`", cells[0].source)) == set(MADE_BY[name[:2]])
    for cell in (cell for cell in cells if cell.cell_type == "code"):
        nodes = list(ast.walk(ast.parse(source_of(cell))))
        names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
        assert {name.split(".")[0] for name in names} <= {*LIBRARIES, *sys.stdlib_module_names}
        assert not cell.outputs and cell.execution_count is None


@pytest.mark.parametrize("name", IMAGES)
def test_a_notebook_defines_nothing_but_the_scorer_that_it_teaches_to_write(name):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    trees = [ast.parse(source_of(cell)) for cell in read(name).cells if cell.cell_type == "code"]
    found = [node for tree in trees for node in ast.walk(tree) if isinstance(node, kinds)]
    expected = ["LargestHead", "needs", "score"] if name == TEACHES else []
    assert [getattr(node, "name", "lambda") for node in found] == expected


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_shows_its_figures_first_and_says_at_most_six_sentences(name):
    cells = read(name).cells
    kinds = [kind_of(cell) for cell in cells if cell.cell_type == "code"][1:]
    assert kinds == sorted(kinds) and "figure" in kinds
    assert 1 <= len(sentences(cells)) <= 6


def test_the_teaching_notebook_says_what_to_change_for_a_real_checkpoint():
    text = read(TEACHES).cells[-1].source
    assert text.startswith("## A real checkpoint")
    assert {"`MODEL`", "`DATA`", "`KEEP`"} <= set(re.findall(r"`\w+`", text))


@parametrize("name", IMAGES, reason="notebooks")
def test_a_notebook_runs_draws_and_ends_with_an_answer_in_numbers(name, made, kernel):
    for what in MADE_BY[name[:2]]:
        made(what)
    cells = [cell for cell in execute(name, kernel).cells if cell.cell_type == "code"]
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    images = sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    assert images == IMAGES[name]
    answer = shown(cells[-1])
    assert re.search(r"n = \d+ questions", answer)
    assert not re.search(r"\bnan\b", answer, re.IGNORECASE)


@pytest.mark.parametrize("name", REPORTS)
def test_a_notebook_without_results_names_the_command_that_makes_them(name, tmp_path, monkeypatch):
    monkeypatch.setenv("FOVEATE_RUNS", str(tmp_path))
    first = next(cell for cell in read(name).cells if cell.cell_type == "code")
    with pytest.raises(DataError, match=f"run `make {MADE_BY[name[:2]][0]}` first"):
        exec(compile(source_of(first), name, "exec"), {})


def test_make_notebooks_runs_the_experiments_whose_results_are_missing_with_their_own_options(tmp_path):
    words = ("--dry-run", "notebooks", "ARGS=--allow-errors", "STUDY_ARGS=--limit 24", "SPEED_ARGS=--rounds 3")
    scripts = {
        name: f"experiments/{name}.py --limit 24" for name in ("measure_bias", "ablate_layers", "compare_methods")
    }
    planned = make(tmp_path, *words).stdout
    lines = planned.splitlines()
    for script in (*scripts.values(), "experiments/measure_speed.py --rounds 3"):
        assert sum(line.endswith(script) for line in lines) == 1  # and so without ARGS
    assert re.search(r"nbconvert .* --allow-errors \$notebook", planned)
    finish(tmp_path, "measure_bias", "compare_methods", "measure_speed")
    planned = make(tmp_path, *words).stdout
    assert re.findall(r"experiments/(\w+)", planned) == ["ablate_layers"]
    assert "experiments/" not in make(tmp_path, *words, f"FOVEATE_RUNS={tmp_path}").stdout


@extended("notebooks")
def test_make_notebooks_measures_once_and_shows_the_answer(tiny, tmp_path):
    finish(tmp_path, "ablate_layers", "compare_methods", "measure_speed")  # this notebook does not read them
    words = ("notebooks", "NOTEBOOKS=notebooks/01_what_scorers_see.ipynb")
    first = make(tmp_path, *words, f"STUDY_ARGS=--model {tiny} --limit 13")
    assert first.returncode == 0, first.stderr
    page = tmp_path / "runs/notebooks/01_what_scorers_see.html"
    assert "n = 13 questions about 2 images" in page.read_text(encoding="utf-8")
    again = make(tmp_path, "--dry-run", *words).stdout
    assert "experiments/" not in again and "nbconvert" in again
