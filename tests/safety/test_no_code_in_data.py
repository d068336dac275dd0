"""Files are data: nothing in them is run, and no other file of the machine is read because of them."""

import ast
import builtins
import json
import pickle
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import torch
from PIL import ImageFile
from safetensors.torch import load_file

from foveate.compressors import Identity
from foveate.core.errors import DataError, FoveateError, UnsupportedModel
from foveate.data.load import load_samples
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.config import run_id
from foveate.evaluation.run import cached_load, loaded_samples
from foveate.models.loading.load import load
from foveate.studies import study
from tests.data import tables

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("src", "experiments") for path in (ROOT / folder).rglob("*.py"))
RUNS_CODE = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


def calls(path):
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


def test_no_source_reads_pickles_or_runs_text():
    assert len(SOURCES) > 150
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not RUNS_CODE & {name.partition(".")[0] for name in names}, path
        for call in calls(path):
            name = ast.unparse(call.func)
            options = {option.arg: ast.unparse(option.value) for option in call.keywords}
            assert name not in ("eval", "exec", "compile", "__import__"), path
            assert name != "torch.load" or options.get("weights_only") == "True", path
            assert options.get("weights_only", "True") == "True", path
            assert options.get("trust_remote_code", "False") == "False", path
            assert not name.endswith(("read_pickle", "np.load")) or options.get("allow_pickle") == "False", path


def test_modules_are_imported_by_name_in_one_place_that_only_the_command_line_reaches():
    """A study's recipes come from `--methods`, `--method` and `--space`, never from a file or database."""

    def named(path, function):
        """Returns the calls of a function whose arguments are not all literals."""
        found = [call for call in calls(path) if ast.unparse(call.func) == function]
        return [call for call in found if not all(isinstance(one, ast.Constant) for one in call.args)]

    assert not any("importlib.import_module" in ast.unparse(call.func) for path in SOURCES for call in calls(path))
    importing = {path.relative_to(ROOT / "src/foveate").as_posix() for path in SOURCES if named(path, "import_module")}
    assert importing == {
        "methods/own.py",
        "models/backbone/internals.py",
        "__init__.py",  # names of a table in the source
        "__main__.py",
        "evaluation/__init__.py",
    }  # the others have tables
    assert [path.name for path in SOURCES if named(path, "internal")] == ["internals.py"]
    asking = {path.name for path in SOURCES if any(ast.unparse(call.func) == "method" for call in calls(path))}
    assert asking == {"fitting.py", "comparison.py", "recipes.py", "methods.py", "session.py"}


@pytest.fixture
def no_pickles(monkeypatch):
    def refused(*args, **options):
        raise AssertionError("something was unpickled")

    import_module("foveate.evaluation.answering")  # Lightning's classes are made while `torch.load` is a function
    for module in (pickle, torch):
        monkeypatch.setattr(module, "load", refused)
    monkeypatch.setattr(pickle, "loads", refused)
    monkeypatch.setattr(pickle, "Unpickler", refused)


def test_nothing_is_unpickled_while_a_model_data_encodings_and_records_are_read(tiny, tmp_path, no_pickles):
    cached_load.cache_clear()
    loaded_samples.cache_clear()
    place = tables.pope(tmp_path / "pope.parquet")
    config = EvalConfig(Identity(), tiny, f"pope:{place}", max_new_tokens=1, out=tmp_path / "runs")
    first = evaluate(config).read()
    again = evaluate(config)
    assert repr(again.read().to_pylist()) == repr(first.to_pylist())  # nan is not equal to itself
    assert again.failed() == {}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickled_weights_are_refused_and_not_opened(name, tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "pickled")
    marker = tmp_path / "ran"
    (folder / name).write_bytes(pickle.dumps(_Trap(str(marker))))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnsupportedModel, match=r"is incomplete.*model\.safetensors"):
        load(folder)
    assert not marker.exists()


def _weight(folder, name):
    return next(value for key, value in load_file(folder / "model.safetensors").items() if key.endswith(name))


class _Trap:
    """An object that creates a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return builtins.open, (self.marker, "w")


def test_the_trap_would_have_snapped(tmp_path):
    pickle.loads(pickle.dumps(_Trap(str(tmp_path / "ran"))))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["llava", "evil"])
def test_code_in_a_checkpoint_stays_where_it_is(kind, tiny, tmp_path):
    folder, marker = shutil.copytree(tiny, tmp_path / "own"), tmp_path / "ran"
    config = json.loads((folder / "config.json").read_text())
    names = {name: f"evil.{name}" for name in ("AutoConfig", "AutoModelForImageTextToText", "AutoProcessor")}
    config |= {"model_type": kind, "auto_map": names, "trust_remote_code": True}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    if kind == "evil":
        with pytest.raises(UnsupportedModel, match="custom code"):
            load(folder)
    else:
        assert torch.equal(load(folder).model.lm_head.weight, _weight(folder, "lm_head.weight"))
    assert not marker.exists()


@pytest.mark.parametrize("option", ["trust_remote_code", "use_safetensors"])
def test_no_option_opens_what_is_closed(option, tiny):
    with pytest.raises(UnsupportedModel, match=f"{option} cannot be given"):
        load(tiny, **{option: option == "trust_remote_code"})


@pytest.mark.parametrize("path", ["/etc/hostname", "../outside.png", "link.png", "/dev/zero"])
def test_a_table_names_no_file_outside_its_folder(path, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "outside.png").write_bytes(tables.encoded_image(1)["bytes"])
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    types = tables.POPE | {"image": {"bytes": tables.Value("binary"), "path": tables.TEXT}}
    row = tables.pope_rows(1)[0] | {"image": {"bytes": None, "path": path}}
    sample = load_samples(f"pope:{tables.write(folder / 'pope.parquet', [row], types)}", "test")[0]
    with pytest.raises(DataError, match="leads out of the folder of its table"):
        _ = sample.image


def test_a_recipe_named_by_data_is_a_text_like_any_other(tmp_path, tiny, monkeypatch):
    """Neither a row nor the notes of a foreign record folder cause an import."""
    (tmp_path / "evil.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = [row | {"question": "evil:recipe", "category": "evil:recipe"} for row in tables.pope_rows(1)]
    place = tables.write(tmp_path / "pope.parquet", rows, tables.POPE)
    folder = evaluate(EvalConfig(Identity(), tiny, f"pope:{place}", max_new_tokens=1, out=tmp_path / "runs"))
    notes = json.loads((folder.folder / "config.json").read_text()) | {"compressor": "evil:recipe", "plugins": "evil"}
    del notes["checksum"]
    (folder.folder / "config.json").write_text(json.dumps(notes | {"checksum": run_id(notes)}))  # as a forger would
    moved = shutil.copytree(folder.folder, tmp_path / "elsewhere")
    copied = type(folder)(moved)
    assert copied.read().num_rows == len(rows)
    assert copied.identity["compressor"] == "evil:recipe"


def test_truncated_images_are_refused_whatever_was_imported():
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_the_dashboard_listens_on_this_machine_only(tmp_path, monkeypatch):
    from foveate.studies import dashboard

    served = []
    monkeypatch.setattr(dashboard, "run_server", lambda storage, host, *_: served.append(host))
    dashboard.serve(tmp_path, 8080)
    assert served == ["127.0.0.1"]


SECRET = "s3cret-word"


def test_a_password_in_a_storage_url_is_in_no_file_and_no_message(tiny, tmp_path, postgresql_url, capsys, caplog):
    """The study runs as from the command line, with a trial that fails at the end."""
    from foveate.studies.ablation import ablate, named_choices

    assert SECRET in postgresql_url

    def cells(tower):
        return named_choices(tower, ("cls[0]",))

    config = EvalConfig(Identity(), tiny, limit=11, max_new_tokens=1, out=tmp_path / "runs", loggers=("csv",))
    done = ablate(study.StudyFolder("s", config.out, postgresql_url), config, cells, (7,))
    facts = json.dumps([done.user_attrs, *(trial.user_attrs for trial in done.trials)], default=str)
    attributes = json.dumps([done._storage.get_study_system_attrs(done._study_id)], default=str)
    said = capsys.readouterr()
    assert SECRET not in facts + attributes + said.out + said.err + caplog.text
    with pytest.raises(FoveateError) as wrong:
        study.StudyFolder("s", tmp_path / "runs", postgresql_url.rpartition("/")[0] + "/no_such_database").open()
    assert SECRET not in str(wrong.value) and "no_such_database" in str(wrong.value)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 5
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []
