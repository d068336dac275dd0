"""Methods as programs of other engines, run in processes that cannot import the package."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from safetensors import safe_open

import foveate
from foveate.compressors import Fallback, VisionCompressor
from foveate.core.arrangement import Arrangement, Grid
from foveate.core.contracts import Selector
from foveate.core.errors import ExportError
from foveate.data.sample import first_of_images
from foveate.export.files import export
from foveate.export.onnx_file import outputs_of
from foveate.export.refusals import check_compressor, check_model
from foveate.functional.ranking import top_k
from foveate.methods import METHODS, saturation, vtc_cls
from foveate.methods.fitting import for_model
from foveate.models.loading.load import adapt
from foveate.scorers import ClsAttention
from foveate.testing.families import FAMILIES
from tests.scripts import ROOT, run
from tests.tiers import parametrize

KEEP = 6
FOVEATE = "import sys; sys.argv[0] = 'foveate'; from foveate.__main__ import main; main()"
EXPORTABLE = (
    "vtc_cls visionzip uniform pool saturation contrast edges fastervlm vispruner prumerge divprune hiprune holov "
    "scope otprune mmr zoo_prune gprune"
).split()
INSIDE, QUESTION = "removes tokens inside the language model", "depends on the question"
OTHERWISE, OPEN = "does not choose among patches after the vision tower", "is not known before its scores are"
REFUSED = {
    **dict.fromkeys(
        "random_inside fastv pyramiddrop sparsevlm sparsevlm_plus dart feather vtw vscan apet fitprune sttm "
        "prunevid holitom flashvid".split(),
        INSIDE,
    ),
    **dict.fromkeys("evidence response_attention cdpruner trim mmtok visiontrim".split(), QUESTION),
    **dict.fromkeys("full blind downsample flowcut tome ficoco_v".split(), OTHERWISE),
    **dict.fromkeys("prumerge_plus hired vidcom2 evs dycoke fastvid llava_scissor".split(), OPEN),
    **dict.fromkeys(("fewer_frames", "temporal_mean"), OPEN),
    **dict.fromkeys(("prunesid", "prunesid_qwen"), "torch.export cannot express it"),
    "random_per_frame": "random numbers are those of NumPy",
    "random": "random numbers are those of NumPy",
}
WITHOUT = """
import sys
refused = {refused!r}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ImportError(name + " is refused")
sys.meta_path.insert(0, Refuse())
try:
    import foveate
    sys.exit("foveate can be imported")
except ImportError:
    pass
"""
TORCH = """
import torch
from safetensors.torch import load_file
golden, program = load_file(sys.argv[2]), torch.export.load(sys.argv[1]).module()
for count in (4, 1):
    given = {n[7:]: v[:count] for n, v in golden.items() if n.startswith("inputs.")}
    found = program(given)
    assert {"outputs." + n for n in found} == {n for n in golden if n.startswith("outputs.")}
    for name, value in found.items():
        expected = golden["outputs." + name][:count]
        if value.is_floating_point():
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(value, expected) and value.dtype == torch.int64, (name, value, expected)
assert "foveate" not in sys.modules
"""
ONNX_RUNTIME = """
import numpy, onnxruntime
from safetensors.numpy import load_file
golden, session = load_file(sys.argv[2]), onnxruntime.InferenceSession(sys.argv[1])
assert all(value.shape[0] == "batch" for value in (*session.get_inputs(), *session.get_outputs()))
names = [output.name for output in session.get_outputs()]
for count in (4, 1):
    given = {n[7:]: v[:count] for n, v in golden.items() if n.startswith("inputs.")}
    for name, value in zip(names, session.run(names, given)):
        expected = golden["outputs." + name][:count]
        if value.dtype.kind == "f":
            numpy.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4)
        else:
            assert (value == expected).all() and value.dtype == "int64", (name, value, expected)
assert "foveate" not in sys.modules and "torch" not in sys.modules
"""


@dataclass(frozen=True)
class Branching(Selector):
    """A selector with a branch on values."""

    static_count: ClassVar[bool] = True

    def select(self, scores, trace, keep):
        return top_k(scores if scores.sum() > 0 else -scores, keep)


@dataclass(frozen=True)
class Unsteady(Selector):
    """A selector that keeps other patches in programs."""

    static_count: ClassVar[bool] = True

    def select(self, scores, trace, keep):
        return top_k(-scores if torch.compiler.is_exporting() else scores, keep)


@dataclass(frozen=True)
class Miscounting(Selector):
    """A selector that keeps fewer patches than it announces."""

    static_count: ClassVar[bool] = True

    def select(self, scores, trace, keep):
        return top_k(scores, keep - 1)


@pytest.fixture(scope="module")
def loaded(tiny):
    return foveate.load(tiny)


@pytest.fixture(scope="module")
def images():
    return [sample.image for sample in first_of_images(foveate.load_samples("scenes", "test", limit=56)).values()]


def written(path, name, loaded, images):
    return export(path, name, for_model(name, KEEP, {}, loaded.adapter), loaded, images[:4])


def elsewhere(code, refused, path):
    golden = path.with_name(f"{path.stem}.golden.safetensors")
    command = [sys.executable, "-c", WITHOUT.format(refused=refused) + code, str(path), str(golden)]
    result = subprocess.run(command, cwd=path.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_every_method_is_exported_or_refused_for_a_reason():
    assert set(EXPORTABLE) | set(REFUSED) == set(METHODS) and not set(EXPORTABLE) & set(REFUSED)


@pytest.mark.guards("exported programs: a formula has another result while it is exported")
@parametrize("name", EXPORTABLE, fast=("vtc_cls", "visionzip"))
def test_a_program_of_torch_keeps_the_same_patches_without_foveate(name, loaded, images, tmp_path):
    written(tmp_path / "it.pt2", name, loaded, images)
    elsewhere(TORCH, ("foveate",), tmp_path / "it.pt2")


@parametrize("name", EXPORTABLE, fast=("vtc_cls", "visionzip"))
def test_a_program_of_onnx_keeps_the_same_patches_without_foveate_and_torch(name, loaded, images, tmp_path):
    written(tmp_path / "it.onnx", name, loaded, images)
    elsewhere(ONNX_RUNTIME, ("foveate", "torch"), tmp_path / "it.onnx")


@parametrize("name", REFUSED, fast=("fastv", "cdpruner", "flowcut", "prumerge_plus", "random"))
def test_other_methods_are_refused_by_name_with_the_reason(name, loaded, images, tmp_path):
    with pytest.raises(ExportError, match=f"^{name} cannot be exported: .*{REFUSED[name]}"):
        written(tmp_path / "it.pt2", name, loaded, images)
    assert not list(tmp_path.iterdir())


def test_a_method_without_a_budget_whose_count_depends_on_scores_is_refused():
    with pytest.raises(ExportError, match=f"prumerge cannot be exported: .*{OPEN}"):
        check_compressor("prumerge", METHODS["prumerge"]())


@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
def test_of_equal_scores_the_lower_index_is_kept_in_every_engine(suffix, loaded, images, tmp_path):
    path = tmp_path / f"it.{suffix}"
    export(path, "saturation", saturation(keep=3), loaded, images[:2])
    scores = torch.tensor([[1.0] * 144, [0.0] * 140 + [2.0, 1.0, 1.0, 1.0]])
    given = {"saturation": scores}
    found = outputs_of(path, given) if suffix == "onnx" else torch.export.load(path).module()(given)
    assert found["kept"].tolist() == [[0, 1, 2], [140, 141, 142]]


def test_the_description_stands_in_the_file_and_says_what_to_give(loaded, images, tmp_path):
    told = written(tmp_path / "it.pt2", "visionzip", loaded, images)
    files = {"foveate.json": ""}
    torch.export.load(tmp_path / "it.pt2", extra_files=files)
    with safe_open(tmp_path / "it.golden.safetensors", "pt") as golden:
        assert json.loads(files["foveate.json"]) == json.loads(golden.metadata()["foveate.json"]) == told
        for name, part in told["inputs"].items():
            assert list(golden.get_tensor(f"inputs.{name}").shape) == [4, *part["shape"][1:]]
    assert (told["kept"], told["tokens"], told["grid"]) == (4, 6, [12, 12])
    assert told["inputs"]["cls_rows"] == {
        "shape": ["batch", 1, 4, 144],
        "dtype": "float32",
        "meaning": "ClsRows(layers=(-2,)), layers 6 of 8 counted from 0",
    }
    assert told["inputs"]["features"]["meaning"].endswith("then of [CLS]")
    assert told["outputs"]["tokens"]["shape"] == ["batch", 6, 128]


def test_a_fallback_reads_received_attention(loaded, images, tmp_path):
    fallback = Fallback(vtc_cls(keep=KEEP, start_layer=5), tuple(range(8)), 6)
    told = export(tmp_path / "it.pt2", "vtc_cls", fallback, loaded, images[:2])
    assert list(told["inputs"]) == ["received_rows", "received_rows_2"]


def test_the_number_of_images_is_open(loaded, images, tmp_path):
    told = export(tmp_path / "it.pt2", "saturation", saturation(keep=3), loaded, images[:3])
    program = torch.export.load(tmp_path / "it.pt2").module()
    assert program({"saturation": torch.rand(9, 144)})["kept"].shape == (9, told["kept"])


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        (Branching(), "torch.export cannot express it"),
        (Unsteady(), "gives other patches for image 0 than the compressor; nothing was written"),
        (Miscounting(), r"its plan has 6 tokens for an image of 144 patches, but these images have \[5, 5\]"),
    ],
)
def test_what_no_program_can_hold_is_an_error_and_writes_nothing(selector, message, loaded, images, tmp_path):
    with pytest.raises(ExportError, match=message):
        export(tmp_path / "it.pt2", "mine", VisionCompressor(ClsAttention(-2), KEEP, selector), loaded, images[:2])
    assert not list(tmp_path.iterdir())


def test_models_whose_images_are_more_than_one_grid_are_refused():
    adapter = adapt(FAMILIES["LLaVA-1.5"]())
    check_model("m", adapter, Arrangement((Grid(2, 2),)))
    for arrangement in (Arrangement((Grid(2, 2), Grid(2, 2))), Arrangement((Grid(2, 2),), separators=(2,))):
        with pytest.raises(ExportError, match="model 'm' cannot be exported for: it cuts this image into tiles"):
            check_model("m", adapter, arrangement)


def test_models_with_deepstack_features_are_refused():
    with pytest.raises(ExportError, match="adds DeepStack features"):
        check_model("m", adapt(FAMILIES["Qwen3-VL"]()), Arrangement((Grid(2, 2),)))


def test_the_command_exports_a_recipe_file(tiny, loaded, tmp_path):
    vtc_cls(keep=5, start_layer=0).save(tmp_path / "recipe.json", loaded)
    result = run("-c", FOVEATE, "export", "recipe.json", "program.onnx", "--model", tiny, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("program.onnx: cls_rows (batch, 7, 4, 144) -> kept (batch, 5)\n")
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.json", "program.onnx", "program.golden.safetensors"}


def test_an_error_in_an_option_of_the_command_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['foveate', 'export', 'vtc_cls', 'program.pt', '--keep', '3']\n"
        "from foveate.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    print(ended.code, 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "2 False\n"
    assert "program 'program.pt': expected a name that ends in .pt2 (torch.export) or .onnx" in result.stderr


def rows_of(page, heading):
    """The methods of each row of a table, by its first cell."""
    lines = (ROOT / page).read_text().partition(heading)[2].partition("\n\n")[0].splitlines()
    cells = [line.strip("|").split("|") for line in lines if line.startswith("| ")]
    return {first.strip(): set(re.findall(r"`(\w+)`", rest)) & set(METHODS) for first, rest in cells}


def test_the_page_says_of_every_method_whether_it_is_exported():
    rows = rows_of("docs/reference/exported_program.md", "| exported | methods |\n")
    assert rows["yes, `kept` alone"] | rows["yes, with `tokens`"] == set(EXPORTABLE)
    assert set.union(*rows.values()) == set(METHODS)


def test_the_page_says_of_every_method_whether_its_count_is_known():
    rows = rows_of("docs/reference/methods.md", "before scores are? | recipes |\n")
    said = run("-c", FOVEATE, "methods").stdout.splitlines()[1 : 1 + len(METHODS)]
    for answer, names in (("yes", rows["yes"]), ("no", rows["no"]), ("with keep", rows["with `keep`"])):
        assert {line.split()[0] for line in said if f"  {answer}  " in line} == names
