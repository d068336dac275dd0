"""The repository: contents of the wheel, effects of imports, rules of style, and checks of this test run."""

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
from foveate.models.loading.names import SHIPPED, folder_of
from tests.house_rules import MOST_LINES, MOST_LINES_OF_A_FILE, RULES, Source, sources

ROOT = Path(__file__).parents[1]

OFFENCES = {
    "functions_open_with_a_verb": (
        'def f():\n    """A number."""',
        'def f():\n    """Tokens of a prompt."""',
        'class C:\n    def f(self):\n        """This returns a number."""',
    ),
    "docstrings_open_with_a_sentence": (
        '"""What a scorer reads."""',
        'class C:\n    """How bias is measured."""',
        'class C:\n    @property\n    def f(self):\n        """Whether it is known."""',
        'X = 1\n"""Of a layer."""',
        'def f(a, b):\n    """Returns a sum.\n\n    Args:\n        a: A number.\n        b: Likewise.\n    """',
    ),
    "functions_are_short": (
        "def f():\n" + "    x = 1\n" * MOST_LINES,
        "def f(a, b, c, d, *, e, f, g): ...",
    ),
    "files_are_short": ("x = 1\n" * (MOST_LINES_OF_A_FILE + 1),),
    "text_uses_the_vocabulary": (
        '"""A picture."""',
        "x = 1  # nobody's trial",
        '"""A compressor\nthat is told a layer."""',
    ),
    "names_use_the_vocabulary": ("told = 1", "def f(asked_now): ...", "class NotHeard: ...", "self._said = 1"),
}
ALLOWED = (
    '''
"""Scores of patches."""

class C:
    """A scorer.

    Attributes:
        known: Whether the evidence is known.
    """

    @property
    def size(self):
        """Number of patches."""

def f(self, a, b, c, d, e, f):
    """Returns, for each patch, a score.

    It has lines without code: this text,
    a blank line and a comment.
    """

    # a comment
'''
    + "    x = 1\n" * (MOST_LINES - 1)
)

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


def test_wheel_holds_the_package_with_the_reference_models_and_nothing_else(tmp_path):
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = [Path(name) for name in ZipFile(wheel).namelist()]
    assert {name.parts[0] for name in names} == {"foveate", f"foveate-{foveate.__version__}.dist-info"}
    for folder in (Path(folder_of(name, part)) for name in SHIPPED for part in ("llava", "clip")):
        packed = {name.name for name in names if name.is_relative_to(f"foveate/reference/{folder.name}")}
        assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= packed
        assert packed == {file.name for file in folder.iterdir()}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_code_follows_the_rules(rule):
    offences = [f"{source.path}:{line}: {text}" for source in sources() for line, text in rule(source)]
    assert not offences, f"{rule.__doc__}\n" + "\n".join([f"{len(offences)} offences", *offences])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_each_rule_finds_its_offences_and_no_others(rule):
    for text in OFFENCES[rule.__name__]:
        assert len(list(rule(Source("x.py", text)))) == 1, text
    assert list(rule(Source("x.py", ALLOWED))) == []


def test_options_of_command_lines_and_lmms_eval_are_exempt():
    (rule,) = (rule for rule in RULES if rule.__name__ == "functions_are_short")
    many = "def {}(a, b, c, d, e, f, g): ..."
    assert not list(rule(Source("src/foveate/commands/x.py", many.format("main"))))
    assert not list(rule(Source("src/foveate/lmms_eval/x.py", many.format("__init__"))))
    assert len(list(rule(Source("experiments/x.py", many.format("__init__"))))) == 1


def test_about_20_names_are_public():
    assert 15 <= len(foveate.__all__) <= 25


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
