"""The house itself: what is shipped, what an import does, and that the checks of the test run are switched on."""

import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from hatchling.builders.wheel import WheelBuilder
from jaxtyping import TypeCheckError

import foveate
from foveate.functional.ranking import top_k

ROOT = Path(__file__).parents[1]
REFERENCE_MODEL = ROOT / "src/foveate/reference/llava"

IMPORT_EVERYTHING = """
import importlib, os, pkgutil
from importlib.util import find_spec
import datasets, optuna, pytorch_lightning, torch, torchmetrics
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

def state():
    return (
        dict(os.environ), torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(),
        torch.get_rng_state().tolist(), ALL_ATTENTION_FUNCTIONS.valid_keys(),
    )

before = state()
import foveate
for module in pkgutil.walk_packages(foveate.__path__, "foveate."):
    if find_spec("lmms_eval") or not module.name.startswith("foveate.lmms_eval."):
        importlib.import_module(module.name)
assert state() == before
"""

IMPORT_WHAT_INFERENCE_NEEDS = """
import importlib, pkgutil, sys
others = "pytorch_lightning torchmetrics optuna datasets pandas pyarrow scipy statsmodels matplotlib tyro beartype"
sys.modules.update(dict.fromkeys(others.split()))  # importing one of them fails
import foveate
packages = set("core functional scorers selectors mergers reductions compressors methods models profiling".split())
for top in pkgutil.iter_modules(foveate.__path__, "foveate."):
    if top.name.removeprefix("foveate.") in packages:
        package = importlib.import_module(top.name)
        for module in pkgutil.walk_packages(getattr(package, "__path__", ()), top.name + "."):
            importlib.import_module(module.name)
"""


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)


def test_installed_version_is_that_of_the_source_tree():
    assert foveate.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_wheel_holds_the_package_with_the_reference_model_and_nothing_else(tmp_path):
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = [Path(name) for name in ZipFile(wheel).namelist()]
    assert {name.parts[0] for name in names} == {"foveate", f"foveate-{foveate.__version__}.dist-info"}
    model = {name.name for name in names if name.is_relative_to("foveate/reference/llava")}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= model
    assert model == {file.name for file in REFERENCE_MODEL.iterdir()}


def test_imports_have_no_side_effects(tmp_path):
    result = run_python(IMPORT_EVERYTHING, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_inference_needs_only_torch_transformers_and_jaxtyping(tmp_path):
    result = run_python(IMPORT_WHAT_INFERENCE_NEEDS, tmp_path)
    assert result.returncode == 0, result.stderr


def test_the_other_tests_prove_that_torchvision_is_not_needed():
    assert find_spec("torchvision") is None


def test_shapes_are_checked_in_this_run():
    with pytest.raises(TypeCheckError):
        top_k(torch.zeros(3), keep=1)
