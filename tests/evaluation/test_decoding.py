"""Evaluations decode greedily, whatever a checkpoint asks for, and answer as its own `generate` or not at all."""

import json
from functools import wraps

import pytest
from transformers import GenerationConfig

from foveate.compressors import Identity
from foveate.core.errors import UnsupportedModel
from foveate.data.load import load_samples
from foveate.evaluation.agreement import check_agreement
from foveate.evaluation.config import EvalConfig
from foveate.evaluation.run import cached_load, evaluate
from foveate.models.loading.load import load
from foveate.models.runtime.generation_config import greedily, unused
from foveate.testing.checkpoints import save_family
from foveate.testing.families import FAMILIES
from foveate.testing.text_models import llava_with
from tests.tiers import parametrize

SETTINGS = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "do_sample": True, "temperature": 0.7}


@pytest.fixture(scope="module")
def penalised(tmp_path_factory):
    """A checkpoint that asks for more than greedy decoding."""
    folder = save_family("LLaVA-1.5", tmp_path_factory.mktemp("penalised"))
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | SETTINGS))
    return folder


def test_evaluations_are_greedy_and_say_which_settings_they_leave_out(penalised, tmp_path):
    config = EvalConfig(Identity(), model=str(penalised), split="test", limit=24, max_new_tokens=6, out=tmp_path)
    with pytest.warns(UserWarning, match=r"decode greedily: do_sample=True, repetition_penalty=5\.0, no_repeat_ngram"):
        rows = evaluate(config).read().to_pylist()
    loaded = cached_load(config.model, config.device, config.dtype)
    assert unused(loaded.model) == {
        name: SETTINGS[name] for name in ("do_sample", "repetition_penalty", "no_repeat_ngram_size")
    }
    samples = {sample.id: sample for sample in load_samples("scenes", "test", limit=24)}
    greedy = GenerationConfig(
        do_sample=False, max_new_tokens=6, pad_token_id=0, eos_token_id=loaded.adapter.ends or None
    )
    differ = 0
    for row in rows:
        sample = samples[row["sample_id"]]
        inputs = loaded.inputs([loaded.chat_prompt([None, row["question"]])], [[sample.image]])
        length = inputs["input_ids"].shape[1]
        with greedily(loaded.model):
            expected = loaded.model.generate(**inputs, generation_config=greedy)[0, length:].tolist()
        penalty = loaded.model.generate(**inputs, do_sample=False, max_new_tokens=6)[0, length:].tolist()
        assert row["prediction"] == loaded.text([expected])[0]
        differ += penalty != expected
    assert differ > len(rows) // 2
    assert loaded.model.generation_config.repetition_penalty == 5.0  # as it was


def test_the_decoding_is_part_of_what_identifies_a_run():
    assert EvalConfig(Identity()).identity("checkpoint", "data")["decoding"] == "greedy"


@parametrize("family", FAMILIES, fast=("LLaVA-1.5", "Qwen3-VL"))
def test_evaluations_of_every_family_agree_with_stock_generate(family, tmp_path):
    loaded = load(save_family(family, tmp_path / "model"))
    check_agreement(loaded, tmp_path / "agrees.json")
    assert json.loads((tmp_path / "agrees.json").read_text())["difference"] < 1e-4


def test_a_model_that_calls_its_language_model_otherwise_is_refused_by_name(penalised, tmp_path, monkeypatch):
    loaded, known = load(penalised), tmp_path / "agrees.json"
    stock = type(loaded.model).forward

    def scaled(self, *args, **kwargs):
        output = stock(self, *args, **kwargs)
        output.logits = output.logits / 8
        return output

    monkeypatch.setattr(type(loaded.model), "forward", wraps(stock)(scaled))
    with pytest.raises(UnsupportedModel, match=r"LlamaModel.*LlavaForConditionalGeneration: use `compressor\.attached"):
        check_agreement(loaded, known)
    assert not known.exists()
    monkeypatch.undo()
    check_agreement(loaded, known)
    monkeypatch.setattr(type(loaded.model), "forward", wraps(stock)(scaled))
    check_agreement(loaded, known)  # remembered


def test_granite_is_scaled_in_its_own_forward(tmp_path):
    model = llava_with("Granite")
    folder = save_family("LLaVA-1.5", tmp_path / "model")
    model.save_pretrained(folder)
    loaded = load(folder)
    assert type(loaded.adapter.decoder.model).__name__ == "GraniteModel"
    check_agreement(loaded, tmp_path / "agrees.json")
