"""Another package adds a family, a benchmark and a method, installed and not touching foveate."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pandas as pd
import pytest
from datasets import Image, Value
from safetensors.torch import save_file

import foveate
from foveate.core.errors import DataError, FoveateError, UnsupportedModel
from foveate.core.plugins import import_plugin, installed_plugins
from foveate.data.benchmarks import POPE, register_benchmark
from foveate.data.names import parsed
from foveate.evaluation.config import checkpoint_identity
from foveate.models.families.llava import Llava
from foveate.models.loading.load import register_family
from foveate.testing.tiny import save_tiny_llava, tiny_llava
from tests.data.tables import encoded_image

OUTSIDE = Path(__file__).parent / "outside"
SAYS = """
import json, sys
import foveate
from foveate.data.load import load_samples
loaded = foveate.load(sys.argv[1])
samples = load_samples("colours:" + sys.argv[2], "test")
texts = [loaded.chat_prompt([None, sample.question]) for sample in samples]
inputs = loaded.inputs(texts, [[sample.image] for sample in samples])
with foveate.METHODS["last_layer"](keep=5).attached(loaded.model) as result:
    output = loaded.model.generate(**inputs, max_new_tokens=3)
print(json.dumps([type(loaded.adapter).__name__, len(result.kept[0]), len(output), "last_layer" in foveate.METHODS]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The package as pip would leave it in a folder of Python's path."""
    folder = tmp_path_factory.mktemp("outside")
    shutil.copy(OUTSIDE / "outside_foveate.py", folder)
    metadata = folder / "outside_foveate-1.0.dist-info"
    metadata.mkdir()
    shutil.copy(OUTSIDE / "entry_points.txt", metadata)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-foveate\nVersion: 1.0\n")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = save_tiny_llava(tmp_path_factory.mktemp("model") / "outside")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "outside_llava"}))
    weights = {name: tensor.clone() for name, tensor in tiny_llava().state_dict().items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})  # without the names that are LLaVA's on disk
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    rows = [{"image": encoded_image(n), "question": "what color is it?", "answer": "red"} for n in range(3)]
    features = datasets.Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
    file = tmp_path_factory.mktemp("colours") / "colours.parquet"
    datasets.Dataset.from_list(rows, features).to_parquet(file)
    return file


def python(*arguments: str, path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    paths = [str(path), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


def test_an_installed_package_adds_a_family_a_benchmark_and_a_method(installed, checkpoint, table, tmp_path):
    result = python("-c", SAYS, str(checkpoint), str(table), path=installed, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == ["OutsideLlava", 5, 3, True]


def test_experiments_know_what_is_installed(installed, checkpoint, table, tmp_path):
    script = Path(__file__).parents[1] / "experiments" / "compare_methods.py"
    options = ("--model", str(checkpoint), "--data", f"colours:{table}", "--methods", "last_layer", "--keep", "9")
    result = python(str(script), *options, path=installed, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    methods = pd.read_csv(tmp_path / "runs/compare_methods_colours/table.csv")["method"]
    assert {"last_layer", "full", "random"} <= set(methods) and "evidence" not in set(methods)


def test_the_code_of_an_outside_family_is_part_of_a_run(installed, checkpoint, tmp_path):
    """Or answers of an adapter that was mended since would be used again."""
    says = (
        "import sys; import foveate; from foveate.evaluation.config import checkpoint_identity\n"
        "loaded = foveate.load(sys.argv[1]); print(checkpoint_identity(loaded), loaded.identity)"
    )
    found = []
    for line in ("", "\n# a comment\n", "\nWORDS = 3\n"):
        folder = tmp_path / f"changed{len(found)}"
        shutil.copytree(installed, folder)
        with (folder / "outside_foveate.py").open("a") as module:
            module.write(line)
        result = python("-c", says, str(checkpoint), path=folder, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        found.append(result.stdout.split())
    assert found[0] == found[1]
    assert found[2][0] != found[0][0] and found[2][1] == found[0][1]
    ours = foveate.load()
    assert checkpoint_identity(ours) == ours.identity


def test_without_the_package_its_names_are_unknown(checkpoint, table):
    with pytest.raises(UnsupportedModel, match="outside_llava"):
        foveate.load(checkpoint)
    with pytest.raises(DataError, match="data 'colours' is unknown"):
        parsed(f"colours:{table}")
    assert "last_layer" not in foveate.METHODS


def test_names_that_are_taken_are_refused():
    with pytest.raises(UnsupportedModel, match="'llava' has an adapter already, Llava"):
        register_family("llava", lambda model: model)
    register_family("llava", Llava)
    with pytest.raises(DataError, match="'pope': another data set has this name already"):
        register_benchmark(POPE.__class__("pope", "x/y", POPE.parts, "test", (), POPE.parse_row))
    register_benchmark(POPE)


def test_a_package_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    metadata = tmp_path / "broken-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[foveate.methods]\nlost = nowhere_at_all:lost\n")
    monkeypatch.syspath_prepend(tmp_path)
    installed_plugins.cache_clear()
    with pytest.raises(FoveateError, match=r"'lost' of foveate\.methods, nowhere_at_all:lost: No module named"):
        import_plugin("foveate.methods", "lost")
    monkeypatch.undo()
    installed_plugins.cache_clear()


def test_every_public_name_is_there():
    assert all(getattr(foveate, name) is not None for name in foveate.__all__)
    assert set(foveate.__all__) <= set(dir(foveate))
    with pytest.raises(AttributeError, match="has no attribute 'loda'"):
        foveate.loda  # noqa: B018
