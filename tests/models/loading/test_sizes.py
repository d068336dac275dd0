"""A checkpoint whose weights are larger than the memory of the device is announced before it is loaded."""

import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from foveate.models.loading import sizes
from foveate.models.loading.load import load
from foveate.models.loading.names import SHIPPED
from foveate.models.loading.sizes import memory_note, weight_bytes
from foveate.testing.tiny import save_tiny_llava, tiny_llava


@pytest.fixture
def memory(monkeypatch):
    """Sets the memory of every device."""
    return lambda size: monkeypatch.setattr(sizes, "memory_of", lambda device: size)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_size_is_that_of_the_loaded_weights(tiny, dtype):
    model = load(tiny, dtype=dtype).model
    loaded = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    assert weight_bytes(tiny, dtype) == loaded


def test_a_sharded_checkpoint_has_the_size_of_all_its_shards(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "sharded")
    (tmp_path / "sharded/model.safetensors").unlink()
    tiny_llava().save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    assert len([*(tmp_path / "sharded").glob("*.safetensors")]) > 1
    assert weight_bytes(tmp_path / "sharded", "float32") == weight_bytes(tiny, "float32")


def test_weights_larger_than_the_memory_are_named_with_what_needs_less(tiny, memory):
    size = weight_bytes(tiny, "float32")
    memory(size - 1)
    with pytest.warns(UserWarning, match=r"weights need .* in float32.* memory of cpu is .*--dtype bfloat16 needs"):
        load(tiny, dtype="float32")
    memory(size // 2 - 1)
    note = memory_note(tiny, "cpu", "float32")
    assert "expect a failure: another --device or a smaller model may fit" in note
    assert "in bfloat16" in memory_note(tiny, "cuda", "bfloat16")


def test_weights_that_fit_are_not_named(tiny, memory):
    assert all(memory_note(name, "cpu", "auto") == "" for name in SHIPPED)
    memory(weight_bytes(tiny, "float32"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tiny, dtype="float32")
    memory(weight_bytes(tiny, "bfloat16"))
    assert memory_note(tiny, "cpu", "bfloat16") == ""


def test_a_size_that_is_not_known_is_no_alarm(tiny, memory, tmp_path):
    memory(1)
    folders = {name: tmp_path / name for name in ("cut", "lost", "strange")}
    for folder in folders.values():
        shutil.copytree(tiny, folder)
    weights = "model.safetensors"
    (folders["cut"] / weights).write_bytes((folders["cut"] / weights).read_bytes()[:100])
    (folders["lost"] / weights).unlink()
    parts = load_file(folders["strange"] / weights)
    save_file(parts | {"x": torch.zeros(2, dtype=torch.complex64)}, folders["strange"] / weights)
    assert [memory_note(folder, "cpu", "float32") for folder in folders.values()] == ["", "", ""]
    assert memory_note("nobody/nomodel", "cpu", "float32") == ""
    assert memory_note(tiny, "no device", "float32") == memory_note(tiny, "mps", "float32") == ""
    memory(None)
    assert memory_note(tiny, "cpu", "float32") == ""


def test_weights_that_several_devices_share_are_no_alarm(tmp_path, memory):
    checkpoint = save_tiny_llava(tmp_path)
    memory(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(checkpoint, device_map="cpu")
