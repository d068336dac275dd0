"""Recipes of users, by file and by module."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from foveate.compressors import Compressor
from foveate.core.errors import UnknownMethod
from foveate.evaluation.identity import identity_of
from foveate.methods.fitting import method
from foveate.methods.registry import check_names, parts_of
from tests.scripts import run

ROOT = Path(__file__).parents[2]
BLOCKS = dict(
    re.findall(r"```python\n# (\w+\.py).*?\n(.*?)```", (ROOT / "docs/tutorials/own_scorer.md").read_text(), re.DOTALL)
)
EXAMPLE = BLOCKS["last_minus_first.py"]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The file of the documented example, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = Path("last_minus_first.py")
    path.write_text(EXAMPLE)
    return path


def written(path: Path, code: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(code)
    return path


def test_the_documented_command_compares_the_documented_file(own, tiny):
    command = re.search(r"```\nfoveate (\w+) (.*)\n", (ROOT / "docs/tutorials/own_scorer.md").read_text())
    assert command
    own_method = [word for word in shlex.split(command[2]) if "last_minus_first" in word]
    small = ["--keep", "0.3", "--limit", "7", "--max-new-tokens", "2", "--model", tiny]
    result = run(str(ROOT / "src/foveate/__main__.py"), command[1], "--methods", *own_method, *small, folder=Path.cwd())
    assert result.returncode == 0, result.stderr
    assert "last_minus_first" in Path("runs/compare_methods/table.csv").read_text()


def test_the_documented_contract_holds(own):
    Path("test_last_minus_first.py").write_text(BLOCKS["test_last_minus_first.py"])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_last_minus_first.py"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert "passed" in result.stdout


def test_a_file_is_run_once_however_its_path_is_written(own):
    recipes = [method(f"{path}:last_minus_first") for path in ("./last_minus_first.py", own.name, own.resolve())]
    assert recipes[0] is recipes[1] is recipes[2]
    assert recipes[0](9) == recipes[1](9)


def test_two_files_of_one_name_are_two_modules(own):
    other = written(Path("other/last_minus_first.py"), EXAMPLE.replace("- rows[:, 0]", "+ rows[:, 0]"))
    one, two = (method(f"{path}:last_minus_first") for path in (own.resolve(), other))
    assert one(9) != two(9)


def test_the_code_of_a_file_is_part_of_a_runs_identity_and_its_place_and_comments_are_not(own):
    copy = written(Path("copy/elsewhere.py"), "# a comment\n" + EXAMPLE)
    other = written(Path("other/other.py"), EXAMPLE.replace("- rows[:, 0]", "- 2 * rows[:, 0]"))
    one, same, changed = (identity_of(method(f"{path}:last_minus_first")(9)) for path in (own.resolve(), copy, other))
    assert one == same != changed


def test_the_code_of_modules_beside_a_file_is_part_of_a_runs_identity(own, monkeypatch):
    code = EXAMPLE.replace("import dataclass\n", "import dataclass\n\nimport factor_beside\n")
    code = code.replace("- rows[:, 0]", "- factor_beside.FACTOR * rows[:, 0]")
    identities = []
    for folder, factor in (("a", 1), ("b", 2)):
        written(Path(folder) / "factor_beside.py", f"FACTOR = {factor}\n")
        with monkeypatch.context() as patch:
            patch.setattr(sys, "path", [*sys.path])
            path = written(Path(folder) / "mine.py", code)
            identities.append(identity_of(method(f"{path}:last_minus_first")(9)))
            del sys.modules["factor_beside"]
    assert identities[0] != identities[1]


def test_a_name_of_a_library_does_not_take_its_place(own):
    path = written(Path("random.py"), EXAMPLE)
    assert isinstance(method(f"./{path}:last_minus_first")(9), Compressor)
    assert "last_minus" not in str(sys.modules["random"])


def test_a_file_takes_variants_and_its_path_may_contain_a_plus(own):
    path = written(Path("a+b.py"), EXAMPLE)
    assert parts_of(f"{path}:last_minus_first+per_tile") == (f"{path}:last_minus_first", ["per_tile"])
    assert method(f"{path}:last_minus_first+per_tile")(9) == method(f"{path}:last_minus_first")(9).tiled(True, True)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("./nowhere.py:mine", "there is no file './nowhere.py'"),
        ("folder/nowhere:mine", "there is no file 'folder/nowhere'"),
        ("./last_minus_first.py", "expected the name of a function after it, such as ./last_minus_first.py:mine"),
    ],
)
def test_a_file_that_is_missing_or_lacks_a_function_is_noticed_before_anything_is_imported(own, name, reason):
    with pytest.raises(UnknownMethod, match=re.escape(reason)):
        check_names([name])


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("nothing = 1\n", "has no attribute 'mine'"),
        ("mine = 1\n", "is 1, which takes no keep"),
        ("def mine(budget):\n    return budget\n", "which takes no keep"),
        ("\nraise KeyError('a table')\n", "KeyError in .*broken.py:2: 'a table'"),
        ("def mine(keep)\n", "SyntaxError in .*broken.py:1: expected ':'"),
        ("import no_such_module\n", "No module named 'no_such_module'"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(own, code, reason):
    written(Path("broken.py"), code)
    with pytest.raises(UnknownMethod, match=rf"(?s)'./broken.py:mine'.*{reason}.*expected ./file.py:function"):
        method("./broken.py:mine")


def test_a_file_that_failed_is_run_again_when_it_is_corrected(own):
    path = written(Path("late.py"), "raise ValueError\n")
    with pytest.raises(UnknownMethod):
        method(f"./{path}:last_minus_first")
    path.write_text(EXAMPLE)
    assert isinstance(method(f"./{path}:last_minus_first")(9), Compressor)
