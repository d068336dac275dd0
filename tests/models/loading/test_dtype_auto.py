"""The meaning of "auto": device, precision and questions per batch."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foveate.compressors import Identity
from foveate.core.errors import DeviceError, OptionError, UnsupportedModel
from foveate.evaluation import EvalConfig
from foveate.evaluation.config import run_id
from foveate.evaluation.run import cached_load
from foveate.models.loading import automatic
from foveate.models.loading.automatic import batch_size_for, device_for, dtype_for, stored_dtype
from foveate.models.loading.load import load
from foveate.testing.tiny import tiny_llava


@pytest.fixture(scope="module")
def stored(tmp_path_factory, tiny):
    """Folder of a tiny checkpoint stored in bfloat16."""
    folder = tmp_path_factory.mktemp("stored") / "bf16"
    shutil.copytree(tiny, folder)
    tiny_llava().bfloat16().save_pretrained(folder)
    return folder


def without_dtype(stored: Path, tmp_path: Path, **parts: object) -> Path:
    """A copy whose configuration names no precision, or another one."""
    copy = tmp_path / "copy"
    shutil.copytree(stored, copy)
    config = json.loads((copy / "config.json").read_text())
    plain = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
    plain["text_config"] = {k: v for k, v in plain["text_config"].items() if k not in ("dtype", "torch_dtype")}
    (copy / "config.json").write_text(json.dumps(plain | parts))
    return copy


def test_on_an_accelerator_the_precision_is_that_of_the_checkpoint(stored):
    assert dtype_for(stored, "auto", "cuda") == dtype_for(stored, "auto", "mps") == "bfloat16"
    assert dtype_for("reference", "auto", "cuda:1") == "float32"
    assert dtype_for(stored, "float16", "cuda") == "float16"


def test_on_a_cpu_the_precision_is_float32(stored):
    config = EvalConfig(Identity(), model=str(stored), device="cpu")
    assert config.dtype == "float32"
    assert cached_load(config.model, config.device, config.dtype).model.dtype == torch.float32


@pytest.mark.parametrize("device", ["gpu", "cpu:x", "cuda:-1", ""])
def test_a_device_that_cannot_exist_is_named(device):
    with pytest.raises(DeviceError, match=r"device .* is unknown: expected auto, cpu"):
        EvalConfig(Identity(), device=device)


def test_without_a_word_in_the_configuration_the_tensors_say_the_precision(stored, tmp_path):
    assert stored_dtype(without_dtype(stored, tmp_path)) == "bfloat16"


def test_the_older_word_of_a_configuration_is_read(stored, tmp_path):
    assert stored_dtype(without_dtype(stored, tmp_path, torch_dtype="float16")) == "float16"


def test_a_precision_that_is_not_supported_is_named(stored, tmp_path):
    with pytest.raises(UnsupportedModel, match="is stored as float64: choose a dtype of float32, bfloat16, float16"):
        dtype_for(without_dtype(stored, tmp_path, dtype="float64"), "auto", "cuda")


def test_a_checkpoint_that_is_missing_is_named():
    with pytest.raises(UnsupportedModel, match="model '/no/such': there is no such folder; expected 'reference', the"):
        dtype_for("/no/such", "auto", "cuda")


def test_the_precision_and_not_auto_identifies_a_run(stored):
    auto = EvalConfig(Identity(), model=str(stored), device="cuda", batch_size=4)
    assert auto.dtype == "bfloat16"
    named = replace(auto, dtype="bfloat16")
    assert run_id(auto.identity("weights", "data")) == run_id(named.identity("weights", "data"))
    assert "auto" not in auto.identity("weights", "data").values()


def test_runs_of_the_shipped_model_are_those_of_float32():
    auto, named = EvalConfig(Identity()), EvalConfig(Identity(), dtype="float32", batch_size=256, device="cpu")
    assert run_id(auto.identity("weights", "data")) == run_id(named.identity("weights", "data"))
    assert auto.on(load()).batch_size == 256


def test_the_device_is_an_accelerator_if_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert (device_for("auto"), device_for("cpu")) == ("mps", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_for("auto") == "cuda"
    monkeypatch.undo()
    assert EvalConfig(Identity()).device == device_for("auto") != "auto"


def test_the_batch_is_a_power_of_two_that_falls_with_the_memory(tiny, monkeypatch):
    loaded, sizes = load(tiny), []
    for memory in (2**36, 2**27, 2**25, 2**20):
        monkeypatch.setattr(automatic, "memory_of", lambda device, memory=memory: memory)
        sizes.append(batch_size_for(loaded))
    assert sizes[0] == 256 and sizes[-1] == 1 and sorted(sizes, reverse=True) == sizes and len({*sizes}) > 2
    assert all(size.bit_count() == 1 for size in sizes)


def test_where_the_memory_is_not_known_questions_are_answered_one_by_one(tiny, monkeypatch):
    monkeypatch.setattr(automatic, "memory_of", lambda device: None)
    assert batch_size_for(load(tiny)) == 1


def test_a_batch_that_is_not_resolved_is_refused():
    with pytest.raises(OptionError, match="batch_size='auto' is not resolved"):
        _ = EvalConfig(Identity()).per_batch
