"""A model may run other prompts while it generates, may be compiled, and may be trained afterwards."""

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from foveate.compressors import Identity
from foveate.core.errors import FoveateError
from foveate.methods import fastv, pyramiddrop, random, sparsevlm, vtc_cls
from foveate.models.loading.load import load
from foveate.testing.families import FAMILIES
from foveate.testing.matrix import family_inputs, load_family
from tests.tiers import parametrize

METHODS = {
    "behind the tower": vtc_cls(16, 1),
    "one cut": fastv(16, 2),
    "several cuts": pyramiddrop(16, (1, 2, 3)),
    "recycling": sparsevlm(40, (0, 1, 2)),
}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@pytest.fixture(scope="module")
def loaded(tiny):
    return load(tiny)


@pytest.fixture(scope="module")
def inputs(loaded):
    ids = torch.tensor([loaded.prompt("what is it ?"), loaded.prompt("where is it ?")])
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": images}


class Besides(LogitsProcessor):
    """A logits processor that runs the model on other inputs at every step and keeps the results."""

    def __init__(self, run):
        self.run, self.found = run, []

    def __call__(self, ids, scores):
        with torch.no_grad():
            self.found.append(self.run(ids).logits)
        return scores


def said(loaded, method, inputs, *processors, **options):
    with method.attached(loaded.model):
        return loaded.model.generate(
            **inputs,
            max_new_tokens=6,
            min_new_tokens=6,
            do_sample=False,
            logits_processor=LogitsProcessorList(processors),
            **options,
        )


@each_method
@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_another_image_that_is_asked_about_meanwhile_changes_no_answer_and_is_compressed(
    loaded, inputs, method, options
):
    """Contrastive decoding does this with a distorted image."""
    noisy = inputs | {"pixel_values": torch.randn_like(inputs["pixel_values"])}
    with method.attached(loaded.model), torch.no_grad():
        expected = loaded.model(**noisy).logits
    second = Besides(lambda ids: loaded.model(**noisy))
    assert torch.equal(said(loaded, method, inputs, second, **options), said(loaded, method, inputs, **options))
    assert len(second.found) == 6
    for logits in second.found:
        torch.testing.assert_close(logits, expected)


@each_method
def test_text_that_is_rated_meanwhile_is_rated_by_the_stock_model(loaded, inputs, method):
    """Rewards, perplexities and guidance do this; the text is longer than the prompt and has its own cache."""
    text, cache = torch.arange(5, 205)[None] % 60 + 5, []

    def rated(ids):
        given = {"input_ids": text[:, :1], "past_key_values": cache[-1]} if cache else {"input_ids": text}
        output = loaded.model(**given)
        cache.append(output.past_key_values)
        return output

    with torch.no_grad():
        expected = loaded.model(input_ids=torch.cat([text, text[:, :1]], 1)).logits
    second = Besides(rated)
    assert torch.equal(said(loaded, method, inputs, second), said(loaded, method, inputs))
    torch.testing.assert_close(second.found[0], expected[:, :-1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(second.found[1][:, 0], expected[:, -1], rtol=1e-3, atol=1e-4)


@each_method
def test_guidance_with_a_negative_prompt_is_that_of_the_formula(loaded, inputs, method):
    negative = (torch.arange(5, 60) % 60 + 5)[None].expand(2, -1)
    options = {"max_new_tokens": 2, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}
    with method.attached(loaded.model):
        wanted = loaded.model.generate(**inputs, **options, output_logits=True).logits[0].log_softmax(-1)
    with torch.no_grad():
        without = loaded.model(input_ids=negative).logits[:, -1].log_softmax(-1)
    with method.attached(loaded.model):
        guided = loaded.model.generate(**inputs, **options, guidance_scale=1.5, negative_prompt_ids=negative)
    torch.testing.assert_close(guided.scores[0], 1.5 * (wanted - without) + without, rtol=1e-3, atol=1e-3)


def test_a_cache_that_a_cut_has_left_is_not_gone_on_from_meanwhile(loaded, inputs):
    cut = []

    def goes_on(ids):
        if not cut:
            output = loaded.model(**inputs)
            cut.append(output.past_key_values)
            return output
        return loaded.model(input_ids=ids[:, -1:], past_key_values=cut[0])

    with pytest.raises(FoveateError, match="cannot continue from past_key_values in forward"):
        said(loaded, METHODS["one cut"], inputs, Besides(goes_on))


@parametrize("method", METHODS.values(), ids=list(METHODS))
@parametrize("how", ["forward", "model"])
def test_a_compiled_model_answers_as_the_plain_one(tiny, loaded, inputs, method, how):
    expected = said(loaded, method, inputs)
    torch._dynamo.reset()
    compiled = load(tiny)
    if how == "forward":
        compiled.model.forward = torch.compile(compiled.model.forward, backend="eager")
    else:
        compiled.model.compile(backend="eager")
    assert torch.equal(said(compiled, method, inputs), expected)


def test_attentions_are_refused_where_a_method_reads_them_and_given_elsewhere(tiny, inputs):
    model = load(tiny, attention="eager").model
    with METHODS["one cut"].attached(model):
        with pytest.raises(FoveateError, match=r"returning attentions \(output_attentions=True\)"):
            model(**inputs, output_attentions=True)
        with pytest.raises(FoveateError, match=r"returning attentions"):
            model.generate(**inputs, max_new_tokens=2, output_attentions=True, return_dict_in_generate=True)
    for method in (METHODS["behind the tower"], random(16)):
        with method.attached(model):
            assert all(one is not None for one in model(**inputs, output_attentions=True).attentions)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_flow_after_answers_in_inference_mode(family):
    loaded, given = load_family(family), family_inputs(family)
    for method in (Identity(), random(keep=8)):
        with torch.inference_mode(), method.attached(loaded):
            loaded.model.generate(**given, max_new_tokens=2, do_sample=False)
        loaded.model.zero_grad()
        with method.attached(loaded):
            loaded.model(**given).logits.sum().backward()
        assert loaded.model.get_input_embeddings().weight.grad is not None


@pytest.mark.parametrize("method", [METHODS["one cut"], METHODS["several cuts"]], ids=["one", "several"])
def test_cuts_train_without_gradients_of_their_ranking(loaded, method):
    loaded.model.train()
    try:
        ids = torch.tensor([loaded.prompt("what is it ?")])
        inputs = {
            "input_ids": ids,
            "pixel_values": torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)),
        }
        with method.attached(loaded.model) as run:
            loaded.model(**inputs).logits[:, -1].sum().backward()
        assert all(not decision.scores.requires_grad for decision in run.decisions)
        grads = [weight.grad for weight in loaded.model.parameters() if weight.grad is not None]
        assert grads and all(grad.isfinite().all() for grad in grads)
        loaded.model.zero_grad()
        loaded.model.gradient_checkpointing_enable()
        with method.attached(loaded.model):
            with pytest.raises(FoveateError, match=r"gradient checkpointing.*switch it off"):
                loaded.model(**inputs)
            with torch.no_grad():
                loaded.model(**inputs)  # no block runs twice
        with vtc_cls(16, 1).attached(loaded.model):
            loaded.model(**inputs).logits[:, -1].sum().backward()
    finally:
        loaded.model.gradient_checkpointing_disable()
        loaded.model.zero_grad()
        loaded.model.eval()


def test_a_call_of_the_inner_model_is_refused_and_not_left_uncompressed(loaded, inputs):
    with vtc_cls(16, 1).attached(loaded.model):
        with pytest.raises(FoveateError, match=r"LlavaModel was called inside the `with`.*LlavaForConditional"):
            loaded.model.model(**inputs)
        with pytest.raises(FoveateError, match="LlavaModel was called inside"):
            loaded.model.model(inputs["input_ids"], inputs["pixel_values"])
    loaded.model.model(**inputs)
