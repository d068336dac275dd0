import numpy as np
import pytest
import torch

from foveate.methods import METHODS, fastervlm, vtc_cls
from foveate.models.load import adapt
from tests.golden_llava import golden, golden_llava, golden_pixels, golden_prompt

BUDGETS = (192, 128, 64, 32)


def decide(compressor):
    with torch.no_grad():
        features, trace = adapt(golden_llava()).encode(golden_pixels(), compressor.needs)
        decision = compressor.decide(features, trace)
        return decision, adapt(golden_llava()).inner.multi_modal_projector(decision.compression.apply(features))


@pytest.mark.parametrize("start", (0, 12, 14, 16, 18, 20, 22))
@pytest.mark.parametrize("keep", BUDGETS)
def test_vtc_cls_keeps_what_the_authors_code_keeps(start, keep):
    expected = golden("vtc_cls")
    decision, _ = decide(vtc_cls(keep, start))
    np.testing.assert_array_equal(decision.kept, expected[f"start{start}_n{keep}_idx"])
    np.testing.assert_allclose(decision.scores, expected[f"start{start}_scores"], rtol=1e-5)


@pytest.mark.parametrize("keep", BUDGETS)
def test_vtc_cls_hands_the_language_model_what_the_authors_code_does(keep):
    _, tokens = decide(vtc_cls(keep))
    np.testing.assert_allclose(tokens, golden("vtc_cls")[f"start16_n{keep}_out"], atol=1e-4)


@pytest.mark.parametrize("keep", BUDGETS)
def test_fastervlm_keeps_what_the_authors_code_keeps(keep):
    expected = golden("fastervlm")
    decision, _ = decide(fastervlm(keep))
    np.testing.assert_array_equal(decision.kept, expected[f"n{keep}_idx"])
    np.testing.assert_allclose(decision.scores, expected["scores"], rtol=1e-5)


@pytest.mark.parametrize("start", (14, 16, 18))
@pytest.mark.parametrize("keep", BUDGETS)
def test_vtc_cls_generates_the_authors_tokens(start, keep):
    expected = golden("vtc_cls_e2e")
    prompt = golden_prompt()
    with vtc_cls(keep, start).attached(golden_llava()):
        output = golden_llava().generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            pixel_values=golden_pixels(),
            max_new_tokens=8,
            min_new_tokens=8,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    name = f"start{start}_n{keep}_img0"
    np.testing.assert_allclose(output.logits[0][0, :128], expected[f"{name}_logits"], atol=1e-3)
    np.testing.assert_array_equal(output.sequences[0, prompt.shape[1] :], expected[f"{name}_tokens"])


def test_full_generates_the_authors_tokens_without_pruning():
    prompt = golden_prompt()
    with METHODS["full"](0.5).attached(golden_llava()):
        output = golden_llava().generate(
            input_ids=prompt, pixel_values=golden_pixels(), max_new_tokens=8, min_new_tokens=8, do_sample=False
        )
    np.testing.assert_array_equal(output[0, prompt.shape[1] :], golden("vtc_cls_e2e")["full_img0_tokens"])


@pytest.mark.parametrize("name", METHODS)
def test_recipes_are_values(name):
    assert METHODS[name](keep=36) == METHODS[name](keep=36)
    assert repr(METHODS[name](keep=36)) == repr(METHODS[name](keep=36))
    assert hash(METHODS[name](keep=36)) == hash(METHODS[name](keep=36))
