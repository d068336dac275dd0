"""The notebooks, executed as `make notebooks` does, on results of a tiny random model."""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from foveate.compression import Identity
from foveate.evaluation import EvalConfig
from foveate.evaluation.bias import BiasPlan, measure
from foveate.models.llava import Tower
from foveate.studies.ablation import ablate
from foveate.studies.choices import Choice, controls, every_layer, single, suffix
from foveate.studies.comparison import compare

FOLDER = Path(__file__).parents[2] / "notebooks"
PICTURES = {"01_what_scorers_see": 1, "02_perception_bias": 5, "03_layers_and_ensembles": 5, "04_accuracy_and_cost": 3}
MADE_BY = {"01": ("bias",), "02": ("bias",), "03": ("ablate", "bias"), "04": ("compare",)}


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory) -> Path:
    """What `make bias`, `make ablate` and `make compare` write, of 13 questions about two pictures."""
    folder = tmp_path_factory.mktemp("notebooks")
    config = EvalConfig(Identity(), model=tiny, limit=13, max_new_tokens=3, out=folder)
    measure(config, BiasPlan(side=6, shares=(0.11, 0.25)), progress=False)
    ablate("ablate_layers", config, choices, (16,))
    compare("compare_methods", config, ("fastv", "vtc_cls"), (72,), seeds=(0,))
    return folder


def choices(tower: Tower) -> list[Choice]:
    return [single(0, tower), single(5, tower), suffix(2, tower), every_layer(tower), *controls((0,))]


@pytest.fixture(scope="module")
def kernel(runs) -> Iterator[KernelManager]:
    """One for all notebooks, which saves the time of importing everything again; `execute` empties it first."""
    manager = KernelManager()
    manager.start_kernel(env={**os.environ, "FOVEATE_RUNS": str(runs), "FOVEATE_ROUNDS": "1"}, cwd=str(FOLDER))
    yield manager
    manager.shutdown_kernel(now=True)


def read(name: str) -> NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def execute(name: str, kernel: KernelManager) -> NotebookNode:
    notebook = read(name)
    notebook.cells.insert(0, new_code_cell("%reset -f"))
    NotebookClient(notebook, km=kernel, timeout=300).execute()
    return notebook


def shown(cell: NotebookNode) -> str:
    return "\n".join(str(text) for output in cell.outputs for text in output.get("data", {}).values())


def test_all_notebooks_are_known_to_this_test():
    assert sorted(PICTURES) == sorted(path.stem for path in FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("name", PICTURES)
def test_a_notebook_asks_a_question_names_its_sources_defines_nothing_and_is_stored_without_outputs(name):
    cells = read(name).cells
    assert len(cells) <= 15
    assert cells[0].cell_type == "markdown" and "?" in cells[0].source.splitlines()[0]
    assert set(re.findall(r"`make (\w+)`", cells[0].source)) == set(MADE_BY[name[:2]])
    for cell in (cell for cell in cells if cell.cell_type == "code"):
        source = re.sub(r"^%.*$", "", cell.source, flags=re.MULTILINE)
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
        assert not [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
        assert not cell.outputs and cell.execution_count is None


@pytest.mark.parametrize("name", PICTURES)
def test_a_notebook_runs_draws_and_ends_with_an_answer_in_numbers(name, kernel):
    cells = [cell for cell in execute(name, kernel).cells if cell.cell_type == "code"]
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    pictures = sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    assert pictures == PICTURES[name]
    answer = shown(cells[-1])
    assert re.search(r"n = \d+ questions", answer)
    assert "nan" not in answer.split()
