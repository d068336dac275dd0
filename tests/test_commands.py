"""The command `foveate`: its list, its errors, and the two commands that need the core packages alone."""

import re
import subprocess
import sys

import pytest

from foveate.commands.names import COMMANDS
from foveate.compressors import TowerCompressor
from foveate.methods import METHODS
from foveate.methods.registry import PLACES
from tests.scripts import ROOT, run
from tests.tiers import extended

FOVEATE = "import sys; sys.argv[0] = 'foveate'; from foveate.__main__ import main; main()"
WITHOUT = "import sys; sys.modules[{!r}] = None; sys.argv[0] = 'foveate'; from foveate.__main__ import main; main()"


def test_every_command_is_a_module_and_every_module_a_command():
    modules = {path.stem for path in (ROOT / "src/foveate/commands").glob("*.py")}
    assert modules - {"__init__", "names"} == set(COMMANDS)


def test_without_a_command_all_are_listed():
    result = run("-c", FOVEATE)
    assert result.returncode == 0
    assert re.findall(r"^  (\w+)  ", result.stdout, re.MULTILINE) == list(COMMANDS)


def test_a_command_that_does_not_exist_is_an_error_that_names_the_nearest():
    result = run("-c", FOVEATE, "compar")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: command 'compar' is unknown; did you mean 'compare'?\n"


def test_a_command_checks_its_options_as_its_script_does():
    command, script = run("-c", FOVEATE, "ablate", "--limit", "0"), run("ablate_layers", "--limit", "0")
    assert command.returncode == script.returncode == 2
    assert command.stderr == script.stderr


@pytest.mark.parametrize(("package", "extra"), [("tyro", "studies"), ("datasets", "studies")])
def test_a_missing_package_names_its_extra(package, extra, tmp_path):
    code = [sys.executable, "-c", WITHOUT.format(package), "compare", "--limit", "1", "--out", str(tmp_path)]
    result = subprocess.run(code, capture_output=True, text=True)
    assert result.returncode == 2
    assert f"{package}, which is not installed: pip install 'foveate[{extra}]'" in result.stderr.splitlines()[-1]


def test_the_list_of_methods_names_each_with_its_paper_and_place():
    lines = run("-c", FOVEATE, "methods").stdout.splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(METHODS)]] == list(METHODS)
    assert any(re.fullmatch(r"visionzip +arXiv 2412\.04467 +yes +after the tower", line) for line in lines)


def test_a_method_is_tried_on_every_family():
    said = run("-c", FOVEATE, "methods", "flowcut").stdout
    assert "  LLaVA-1.5           works\n" in said and "Qwen3-VL            no: works between the blocks" in said


def test_a_method_that_does_not_exist_is_an_error():
    result = run("-c", FOVEATE, "methods", "fastvee")
    assert result.returncode == 2 and "did you mean fastv" in result.stderr


def test_the_doctor_names_what_is_missing_for_what():
    said = run("-c", FOVEATE, "doctor").stdout
    assert f"Python {sys.version.split()[0]}" in said and "cpu, " in said
    assert re.search(r"studies +the commands that evaluate.*\n +installed\n", said)


@pytest.mark.parametrize("name", [name for name, place in PLACES.items() if place not in ("control", "oracle")])
def test_the_place_of_a_method_is_where_its_compressor_removes_tokens(name):
    place = PLACES[name]
    compressor = METHODS[name](keep=8)
    kept = compressor.plan(144, 32) if name != "vscan" else None
    inside = bool(compressor.cuts)
    assert inside == ("language model" in place)
    assert isinstance(compressor, TowerCompressor) == (place == "inside the tower")
    assert kept is None or inside == (len(set(kept)) > 1)


@extended("devices")
def test_several_processes_share_a_command(tiny, tmp_path):
    small = "--keep 9 --layers 0 --limit 14 --max-new-tokens 2 --workers 2 --model".split()
    code = [sys.executable, "-m", "foveate", "ablate", *small, tiny]
    result = subprocess.run(code, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "runs/ablate_layers/table.csv").exists()
