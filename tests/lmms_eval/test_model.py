"""The adapter alone: prompts, probabilities, decoding, and refused requests."""

import numpy as np
import pytest
import torch
from PIL import Image

from foveate.core.errors import BudgetError, DataError, FoveateError, LayerError, UnknownMethod, UnsupportedModel
from foveate.data.load import load_samples
from foveate.models.loading.load import load

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: docs/how_to/lmms_eval.md")
from foveate.lmms_eval.model import Foveate
from foveate.lmms_eval.request import generate_options, until
from tests.lmms_eval.asking import generating, weighing

CHOICES = ["red", "blue", "two", "lower left"]


@pytest.fixture(scope="module")
def docs():
    samples = load_samples("scenes", "test", limit=5)
    return [{"text": sample.question, "images": [sample.image]} for sample in samples]


@pytest.fixture(scope="module")
def loaded():
    return load()


def stock(loaded, doc, method, **options):
    """Returns the inputs of one prompt by the checkpoint's processor, and the stock model's `generate` on them."""
    processor = loaded.processor
    content = [{"type": "image"}] * len(doc["images"]) + [{"type": "text", "text": doc["text"]}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=text, images=doc["images"] or None, return_tensors="pt")
    if not doc["images"]:
        return inputs, loaded.model.generate(**inputs, do_sample=False, **options)
    with method.attached(loaded):
        return inputs, loaded.model.generate(**inputs, do_sample=False, **options)


@torch.inference_mode()
@pytest.mark.parametrize("arguments", [{"method": "vtc_cls", "keep": 16}, {"method": "fastv", "keep": 9, "layer": 2}])
def test_one_image_two_and_none_are_answered_as_by_stock_generate(loaded, docs, arguments):
    both = {"text": "what color is the star?", "images": [docs[0]["images"][0], Image.new("RGB", (96, 96), "red")]}
    mixed = [docs[0], both, {"text": "how many shapes are there?", "images": []}, docs[1]]
    model = Foveate(batch_size=4, device="cpu", **arguments)
    found = model.generate_until(generating(model, mixed, max_new_tokens=6, until=["\n\n"]))
    for doc, answer in zip(mixed, found, strict=True):
        inputs, output = stock(loaded, doc, model.compressor, max_new_tokens=6)
        assert answer.text == loaded.text([output[0, inputs["input_ids"].shape[1] :].tolist()])[0]


@torch.inference_mode()
@pytest.mark.parametrize("arguments", [{}, {"method": "vtc_cls", "keep": 9}])
def test_a_loss_is_that_of_one_pass_over_prompt_and_answer(loaded, docs, arguments):
    model = Foveate(batch_size=3, device="cpu", **arguments)
    found = iter(model.loglikelihood(weighing(model, docs[2:4], CHOICES)))
    for doc in docs[2:4]:
        inputs = loaded.processor(text=f"USER : <image> {doc['text']} ASSISTANT :", images=doc["images"][0])
        for choice in CHOICES:
            words = loaded.processor.tokenizer(choice, add_special_tokens=False)["input_ids"]
            target = torch.tensor([*words, loaded.adapter.ends[0]])
            ids = torch.cat([torch.tensor(inputs["input_ids"]), target[None]], 1)
            pixels = torch.tensor(np.array(inputs["pixel_values"]))
            with model.compressor.attached(loaded):
                logits = loaded.model(input_ids=ids, pixel_values=pixels).logits[0, -len(target) - 1 : -1]
            loss, greedy = next(found)
            assert loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, target)), abs=1e-4)
            assert greedy == logits.argmax(1).equal(target)


@torch.inference_mode()
def test_where_the_model_itself_is_cut_a_loss_is_that_of_its_own_answer_and_no_other_is_greedy(loaded, docs):
    model = Foveate(batch_size=4, method="fastv", keep=9, layer=2, device="cpu")
    for row, doc in enumerate(docs):
        inputs, output = stock(
            loaded, doc, model.compressor, max_new_tokens=20, output_logits=True, return_dict_in_generate=True
        )
        said = output.sequences[0, inputs["input_ids"].shape[1] :]
        losses = [-float(step[0].log_softmax(0)[token]) for step, token in zip(output.logits, said, strict=True)]
        answer = loaded.text([said.tolist()])[0]
        (loss, greedy), (_, other) = model.loglikelihood(weighing(model, docs, [answer, "ring ring"]))[2 * row :][:2]
        assert (loss, greedy, other) == (pytest.approx(np.mean(losses), abs=1e-4), True, False)


def test_greedy_unless_there_is_a_temperature():
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    assert generate_options({"until": ["x"], "image_aspect_ratio": "pad"}, 7) == {"max_new_tokens": 7} | greedy
    assert (
        generate_options({"temperature": 0, "do_sample": True, "max_new_tokens": 3}, 7)
        == {"max_new_tokens": 3} | greedy
    )
    assert generate_options({"temperature": 0.7, "do_sample": False, "num_beams": 2}, 7)["do_sample"] is False
    sampled = {"max_new_tokens": 7, "do_sample": True, "temperature": 0.7, "top_p": 0.9}
    assert generate_options({"temperature": 0.7, "top_p": 0.9, "top_k": None}, 7) == sampled
    assert generate_options({"do_sample": True, "max_gen_toks": 5}, 7) == {"max_new_tokens": 5, "do_sample": True}


def test_an_answer_ends_before_what_the_task_names_but_not_at_the_blank_line_that_every_task_gets():
    assert until("a\n\nb. c", ["\n\n", "."]) == "a\n\nb"
    assert until("a\nb", "\n") == "a"
    assert until("a", None) == "a"


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({"method": "vtccls", "keep": 9}, UnknownMethod, "did you mean vtc_cls"),
        ({"method": "vtc_cls"}, BudgetError, "needs keep"),
        ({"method": "vtc_cls", "keep": "many"}, BudgetError, "keep='many'"),
        (
            {"method": "fastv", "keep": 9, "layers": 2},
            FoveateError,
            "option 'layers' of fastv is unknown; its options: l",
        ),
        ({"method": "fastv", "keep": 9, "layer": 1.5}, FoveateError, "layer=1.5: expected a whole number"),
        ({"method": "fastv", "keep": 9, "layer": 8}, LayerError, "layer 8: this language model has 8 layers"),
        (
            {"method": "feather", "layers": "8"},
            FoveateError,
            "layers=8: expected a tuple, each of its items a whole number",
        ),
        ({"batch_size": "auto"}, FoveateError, "batch_size='auto'"),
        ({"pretrained": "nowhere"}, UnsupportedModel, "nowhere"),
        ({"dtype": "int8"}, UnsupportedModel, "dtype 'int8'"),
    ],
)
def test_arguments_that_cannot_be_are_named(arguments, error, told):
    with pytest.raises(error, match=told):
        Foveate(device="cpu", **arguments)


def test_arguments_are_read_as_lmms_eval_writes_them():
    model = Foveate.create_from_arg_string(
        "method=feather,keep=0.3,layers=[1,3],step=2", {"batch_size": 2, "device": "cpu"}
    )
    assert (model.batch_size, model.compressor.cuts[0].layer) == (2, 1)
    negative = Foveate.create_from_arg_string("method=fastervlm,keep=0.25,deep_layer=-2", {"device": "cpu"})
    assert "layer=-2" in repr(negative.compressor)


def test_what_is_no_image_and_what_goes_on_for_rounds_is_refused(docs):
    model = Foveate(device="cpu")
    with pytest.raises(DataError, match="a str as visual"):
        model.generate_until(generating(model, [{"text": "what?", "images": ["sound.wav"]}]))
    with pytest.raises(DataError, match="2 placeholders"):
        model.generate_until(generating(model, [{**docs[0], "text": "<image> or <image>?"}]))
    with pytest.raises(FoveateError, match="several rounds"):
        model.generate_until_multi_round([])
