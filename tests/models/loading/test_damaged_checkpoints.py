"""Errors name damaged or unsupported checkpoint folders, whatever a library raises for them."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from foveate.core.errors import UnsupportedModel
from foveate.models.loading.load import load


def settings(name, *keys, **change):
    """Returns a function that changes a JSON file of the folder."""

    def damage(folder):
        whole = json.loads((folder / name).read_text())
        part = whole
        for key in keys:
            part = part[key]
        part.update(change)
        (folder / name).write_text(json.dumps(whole))

    return damage


def written(name, content):
    def damage(folder):
        (folder / name).write_bytes(content)

    return damage


def gone(pattern):
    def damage(folder):
        for path in list(folder.glob(pattern)):
            path.unlink()

    return damage


def weights(change):
    def damage(folder):
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return damage


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def sharded(content):
    def damage(folder):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(content)

    return damage


CONFIG, WEIGHTS, PARTS = "neither 'reference', nor a checkpoint folder", "is incomplete", "is incomplete"
DAMAGES = {
    "no config": (gone("config.json"), CONFIG),
    "noise as config": (written("config.json", os.urandom(99)), CONFIG),
    "null as config": (written("config.json", b"null"), CONFIG),
    "list as config": (written("config.json", b"[1]"), CONFIG),
    "other type": (settings("config.json", model_type="bert"), "is of type 'bert'; supported: llava"),
    "unknown type": (settings("config.json", model_type="nothing"), CONFIG),
    "type of another family": (settings("config.json", model_type="qwen2_5_vl"), "lacks .* of its weights"),
    "width that is no number": (settings("config.json", "text_config", hidden_size="many"), "hidden_size"),
    "width of another model": (settings("config.json", "text_config", hidden_size=48), "there, .* expected"),
    "no heads": (settings("config.json", "text_config", num_attention_heads=0), CONFIG),
    "no blocks": (settings("config.json", "text_config", num_hidden_layers=0), "its language model 0 blocks"),
    "no vision": (settings("config.json", vision_config="clip"), "vision_config"),
    "features of layer 99": (settings("config.json", vision_feature_layer=99), "this tower has 8 layers"),
    "unknown precision": (settings("config.json", dtype="nonsense"), "nonsense"),
    "image token out of range": (settings("config.json", image_token_id=10**6), "expected the image token 1000000"),
    "no weights": (gone("*.safetensors"), WEIGHTS),
    "weights cut": (cut, "incomplete metadata"),
    "no bytes": (written("model.safetensors", b""), "header too small"),
    "noise as weights": (written("model.safetensors", b"\xff" * 5000), "header too large"),
    "one weight missing": (weights(lambda w: dict(list(w.items())[1:])), "lacks 1 of its weights, such as"),
    "one weight of another shape": (
        weights(lambda w: w | {name: torch.ones(3, 3) for name in w if name.endswith("lm_head.weight")}),
        r"lm_head.weight: \(3, 3\) there",
    ),
    "index is noise": (sharded("{"), WEIGHTS),
    "index without a map": (sharded("{}"), "weight_map"),
    "part missing": (sharded('{"metadata": {}, "weight_map": {"a": "model-2.safetensors"}}'), "model-2.safetensors"),
    "no tokenizer": (gone("token*"), PARTS),
    "noise as tokenizer": (written("tokenizer.json", b'{"a": 1'), PARTS),
    "other tokenizer": (written("tokenizer.json", b'{"version": "1.0"}'), PARTS),
    "list as tokenizer settings": (written("tokenizer_config.json", b"[]"), PARTS),
    "no processor": (gone("*processor*"), PARTS),
    "unknown image processor": (
        settings("processor_config.json", "image_processor", image_processor_type="Nope"),
        "Unrecognized image processor",
    ),
    "size that is none": (settings("processor_config.json", "image_processor", size={"height": "x"}), PARTS),
    "mean that is none": (settings("processor_config.json", "image_processor", image_mean="x"), "takes no image"),
    "noise as template": (written("chat_template.jinja", b"{% for %}"), "TemplateSyntaxError"),
    "template that reaches out": (
        written("chat_template.jinja", b"{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        "SecurityError",
    ),
    "strange generation": (written("generation_config.json", b'{"max_new_tokens": "many"}'), WEIGHTS),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_with_its_cause(damage, tiny, tmp_path):
    do, says = DAMAGES[damage]
    folder = shutil.copytree(tiny, tmp_path / "damaged")
    do(folder)
    with pytest.raises(UnsupportedModel, match=says) as caught:
        load(folder)
    assert str(caught.value).startswith(f"model '{folder}'"[:60])
    assert len(str(caught.value)) < 1500 and "\n" not in str(caught.value)


def test_what_can_be_done_without_is_done_without(tiny, tmp_path):
    """The folder has an unknown processor class, and a weight that the model does not have."""
    folder = shutil.copytree(tiny, tmp_path / "odd")
    settings("processor_config.json", processor_class="Nope")(folder)
    weights(lambda w: w | {"strange": torch.ones(2)})(folder)
    assert load(folder).prompt("?") == load(tiny).prompt("?")
