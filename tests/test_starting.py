"""What a start imports, counted and not timed: help, and an error in an option, need nothing that takes seconds."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

from foveate.compressors import Identity
from foveate.data.benchmarks import BENCHMARKS
from foveate.data.names import NAMES
from foveate.evaluation import EvalConfig, evaluate
from foveate.methods import METHODS, recipes
from tests.tiers import parametrize

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.name for path in (ROOT / "experiments").glob("*.py"))
HEAVY = frozenset(
    "torch transformers pytorch_lightning lightning_fabric torchmetrics datasets optuna sqlalchemy pandas pyarrow "
    "scipy statsmodels matplotlib seaborn numpy PIL jaxtyping".split()
)
COMPILERS = frozenset("transformers.masking_utils transformers.modeling_utils torch._dynamo sympy".split())
ANSWERING = frozenset("pytorch_lightning lightning_fabric torchmetrics datasets".split())
RUN = """
import runpy, sys
script, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = script
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as ended:
    print("\\nended", ended.code)
print("\\nmodules", *sys.modules)
"""


def imported(code: str, *arguments: str, folder: Path = ROOT) -> tuple[set[str], str]:
    """The modules of a process that runs this code and prints them last, and all that it has said."""
    result = subprocess.run([sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    *_, last = result.stdout.splitlines()
    assert last.startswith("modules ")
    return set(last.split()), result.stdout + result.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_nothing_heavy(script):
    modules, said = imported(RUN, str(ROOT / "experiments" / script), "--help")
    assert "usage: " in said and "ended 0" in said
    assert not modules & HEAVY


@parametrize(
    ("script", "options"),
    [
        ("ablate_layers.py", "--limit 0"),
        ("ablate_layers.py", "--seed -1"),
        ("ablate_layers.py", "--batch-size 0"),
        ("ablate_layers.py", "--max-new-tokens 0"),
        ("ablate_layers.py", "--dtype float64"),
        ("ablate_layers.py", "--data nothing"),
        ("ablate_layers.py", "--devices 0"),
        ("ablate_layers.py", "--logger paper"),
        ("ablate_layers.py", "--keep 0"),
        ("compare_methods.py", "--model ./nomodel"),
        ("measure_speed.py", "--model /nowhere/nomodel"),
        ("ablate_layers.py", "--keep"),
        ("ablate_budgets.py", "--keep 1.5"),
        ("answer_benchmark.py", "--method fastvee"),
        ("answer_benchmark.py", "--storage sqlite:///x.db"),
        ("compare_methods.py", "--methods fastv+nothing"),
        ("compare_methods.py", "--keep nan"),
        ("measure_bias.py", "--shares 1.5"),
        ("measure_bias.py", "--side 0"),
        ("measure_speed.py", "--batch 0"),
        ("measure_speed.py", "--rounds 0"),
        ("reproduce_vtc_cls.py", "--data scenes"),
        ("reproduce_vtc_cls.py", "--keep 0"),
        ("search_weights.py", "--space nothing"),
        ("search_weights.py", "--goals"),
        ("search_weights.py", "--trials 0"),
        ("search_weights.py", "--report-split search"),
        ("train_reference.py", "--stage nothing"),
    ],
    fast=[
        ("ablate_layers.py", "--limit 0"),
        ("ablate_budgets.py", "--keep 1.5"),
        ("answer_benchmark.py", "--method fastvee"),
        ("compare_methods.py", "--methods fastv+nothing"),
        ("compare_methods.py", "--model ./nomodel"),
        ("measure_bias.py", "--shares 1.5"),
        ("measure_speed.py", "--batch 0"),
        ("reproduce_vtc_cls.py", "--data scenes"),
        ("search_weights.py", "--space nothing"),
        ("train_reference.py", "--stage nothing"),
    ],
)
def test_an_error_in_an_option_imports_nothing_heavy(script, options):
    modules, said = imported(RUN, str(ROOT / "experiments" / script), *options.split())
    assert "ended 2" in said
    assert not modules & HEAVY


def test_the_package_itself_imports_nothing_heavy():
    assert not imported("import foveate, sys; print('modules', *sys.modules)")[0] & (HEAVY | {"tyro"})


@parametrize(
    "package",
    ["core", "functional", "scorers", "selectors", "mergers", "profiling.flops", "compressors"],
    fast=("compressors",),
)
def test_what_compresses_does_not_import_the_models_of_transformers(package):
    code = (
        f"import importlib, pkgutil, sys, foveate.{package} as package\n"
        "for module in pkgutil.walk_packages(getattr(package, '__path__', ()), package.__name__ + '.'):\n"
        "    importlib.import_module(module.name)\n"
        "print('modules', *sys.modules)"
    )
    modules, _ = imported(code)
    assert "torch" in modules
    assert not modules & (COMPILERS | {"transformers"})


def test_recipes_do_not_import_the_models_of_transformers():
    code = "import sys; from foveate.methods import vtc_cls; vtc_cls(7); print('modules', *sys.modules)"
    assert not imported(code)[0] & (COMPILERS | {"transformers"})


def test_an_evaluation_that_has_nothing_left_to_answer_imports_nothing_that_answers(tiny, tmp_path):
    evaluate(EvalConfig(Identity(), model=tiny, limit=11, max_new_tokens=1, out=tmp_path))
    code = (
        "import sys; from pathlib import Path\n"
        "from foveate.compressors import Identity; from foveate.evaluation import EvalConfig, evaluate\n"
        f"folder = evaluate(EvalConfig(Identity(), model={tiny!r}, limit=11, max_new_tokens=1, out=Path('.')))\n"
        "assert folder.read().num_rows == 11\n"
        "print('modules', *sys.modules)"
    )
    assert not imported(code, folder=tmp_path)[0] & ANSWERING
    assert len(list((tmp_path / "records").iterdir())) == 1


def test_the_names_of_methods_are_those_of_the_recipes():
    modules = [import_module(found.name) for found in iter_modules(recipes.__path__, f"{recipes.__name__}.")]
    made = [
        name
        for module in modules
        for name, value in vars(module).items()
        if getattr(value, "__module__", "") == module.__name__ and name[0] != "_"
    ]
    assert sorted(METHODS) == sorted(made)
    assert len(METHODS) == len(set(METHODS)) == len(dict(METHODS))
    assert all(recipe.__name__ == name for name, recipe in METHODS.items())
    assert "nothing" not in METHODS and METHODS.get("nothing") is None


def test_the_names_of_benchmarks_are_those_of_the_table():
    assert tuple(BENCHMARKS) == NAMES
