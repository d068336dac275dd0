"""Models inside a wrapper of PEFT: compression is attached to the stock model that the wrapper calls."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model

from foveate.core.errors import UnsupportedModel
from foveate.methods import fastv, full, uniform, vtc_cls
from foveate.models.loading.load import adapt, load
from foveate.testing.checkpoints import save_family
from foveate.testing.families import BEGIN, IMAGE, image_inputs, llava

METHODS = {"vtc_cls": vtc_cls(9, 0), "fastv": fastv(9, 2), "uniform": uniform(9), "full": full()}
OPTIONS = {
    "max_new_tokens": 5,
    "min_new_tokens": 5,
    "do_sample": False,
    "return_dict_in_generate": True,
    "output_logits": True,
}
TARGETS = ["q_proj", "v_proj", "fc1", "down_proj", "linear_1"]  # of tower, projector and language model


@pytest.fixture
def inputs():
    ids = torch.tensor([[BEGIN, 5, *[IMAGE] * 36, 9, 10, 11], [BEGIN, 7, *[IMAGE] * 36, 12, 13, 14]])
    pixels = torch.cat([one["pixel_values"] for one in image_inputs("LLaVA-1.5")[:2]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


@pytest.fixture(params=[None, "CAUSAL_LM"], ids=["plain wrapper", "causal language model"])
def wrapped(request) -> PeftModel:
    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, init_lora_weights=False, task_type=request.param)
    return get_peft_model(llava(), lora).eval()


def answers(model, inputs, method, to=None):
    with torch.no_grad(), METHODS[method].attached(model if to is None else to) as run:
        output = model.generate(**inputs, **OPTIONS)
        logits = model(**inputs).logits
    return torch.stack([*output.logits, logits[:, -1]]), [row.tolist() for row in run.kept], output.sequences


def alike(found, expected):
    torch.testing.assert_close(found[0], expected[0], atol=1e-3, rtol=1e-3)
    return found[1] == expected[1] and torch.equal(found[2], expected[2])


@pytest.mark.parametrize("method", METHODS)
def test_a_wrapped_model_answers_as_the_plain_one_with_the_same_weights(method, wrapped, inputs):
    plain = deepcopy(wrapped).merge_and_unload()
    assert type(plain) is type(llava())
    expected = answers(plain, inputs, method)
    assert alike(answers(wrapped, inputs, method), expected)
    wrapped.merge_adapter()
    assert alike(answers(wrapped, inputs, method), expected)
    wrapped.unmerge_adapter()
    assert alike(answers(wrapped, inputs, method), expected)


@pytest.mark.parametrize("method", METHODS)
def test_with_its_adapter_disabled_it_answers_as_before(method, wrapped, inputs):
    expected, enabled = answers(llava(), inputs, method), answers(wrapped, inputs, method)
    with wrapped.disable_adapter():
        assert alike(answers(wrapped, inputs, method), expected)
    assert (enabled[0] - expected[0]).abs().max() > 0.1
    assert alike(answers(wrapped, inputs, method), enabled)


def test_the_model_and_its_wrapper_are_one_to_whoever_attaches(wrapped, inputs):
    inner = wrapped.get_base_model()
    assert adapt(wrapped).model is inner
    assert alike(answers(wrapped, inputs, "vtc_cls", to=inner), answers(inner, inputs, "vtc_cls", to=wrapped))
    assert "generate" not in vars(inner) and "forward" not in vars(inner)


def test_a_loaded_checkpoint_may_be_wrapped(inputs, tmp_path):
    loaded = load(save_family("LLaVA-1.5", tmp_path))
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, init_lora_weights=False)
    wrapped = get_peft_model(loaded.model, lora).eval()
    tuned = replace(loaded, adapter=adapt(wrapped))
    assert alike(answers(wrapped, inputs, "vtc_cls", to=tuned), answers(wrapped, inputs, "vtc_cls"))


def test_adapters_that_put_tokens_before_the_prompt_are_named():
    wrapped = get_peft_model(llava(), PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    with pytest.raises(UnsupportedModel, match=r"adapter 'default' \(PrefixTuningConfig\) puts tokens of its own"):
        adapt(wrapped)


def test_a_wrapper_of_another_model_is_named(wrapped):
    other = get_peft_model(llava().model.language_model, LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(UnsupportedModel, match="LlamaModel is not supported"):
        adapt(other)
