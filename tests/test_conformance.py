"""Every golden set of the authors' code, through the public interface: recipes attached to a stock LLaVA.

Vision-side methods are also given the float64 arrays of the sets that are fragile in float32. What the files mean, and
why some of them are float64, is told in `golden/README.md` and in each set's `.json`.
"""

import json

import numpy as np
import pytest
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from foveate.core.arrangement import Grid
from foveate.core.needs import AlignedPatches, AlignedText, ClsRows, Features
from foveate.core.trace import Trace
from foveate.methods import METHODS
from tests.golden_llava import GOLDEN, golden, golden_llava, golden_pixels, golden_prompt, inputs

BUDGETS = (192, 128, 64, 32)
SCORES = {"rtol": 1e-5}
MERGED = {"atol": 1e-4}
LOGITS = {"atol": 1e-3}


def generated(compressor, prompt, model, new=8, **images):
    """The run and what stock `generate` returns."""
    with compressor.attached(model) as run:
        output = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            **images,
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return run, output.logits[0][0, :128].numpy(), output.sequences[0, prompt.shape[1] :].numpy()


def compressed(compressor, model=None):
    """Returns the result of a vision-side method on the golden image, and on the golden model if none is given."""
    model = golden_llava() if model is None else model
    run, _, _ = generated(compressor, golden_prompt(), model, 1, pixel_values=golden_pixels().to(model.dtype))
    return run


def tokens_before_projector(run):
    """The merged features, computed from the decision and the model's own features."""
    states = golden_llava().model.vision_tower(golden_pixels(), output_hidden_states=True).hidden_states[-2]
    sources = torch.cat([states[:, 1:], states[:, :1]], 1)
    return run.decisions[0].compression.apply(sources.detach())[0].numpy()


def visual(dim=64):
    return torch.from_numpy(inputs.prompts(dim)[0]["visual"])[None]


def encoder_outputs(dim=64):
    return {"image": BaseModelOutputWithPooling(pooler_output=list(visual(dim)))}


@pytest.mark.parametrize("start", (0, 12, 14, 16, 18, 20, 22))
@pytest.mark.parametrize("keep", BUDGETS)
def test_vtc_cls(start, keep):
    expected = golden("vtc_cls")
    run = compressed(METHODS["vtc_cls"](keep=keep, start_layer=start))
    np.testing.assert_array_equal(run.kept[0], expected[f"start{start}_n{keep}_idx"][0])
    np.testing.assert_allclose(run.scores[0], expected[f"start{start}_scores"][0], **SCORES)


@pytest.mark.parametrize("start", (14, 16, 18))
@pytest.mark.parametrize("keep", BUDGETS)
def test_vtc_cls_to_the_answer(start, keep):
    expected, name = golden("vtc_cls_e2e"), f"start{start}_n{keep}_img0"
    _, logits, tokens = generated(
        METHODS["vtc_cls"](keep=keep, start_layer=start), golden_prompt(), golden_llava(), pixel_values=golden_pixels()
    )
    np.testing.assert_allclose(logits, expected[f"{name}_logits"], **LOGITS)
    np.testing.assert_array_equal(tokens, expected[f"{name}_tokens"])


def test_full_to_the_answer():
    _, _, tokens = generated(METHODS["full"](), golden_prompt(), golden_llava(), pixel_values=golden_pixels())
    np.testing.assert_array_equal(tokens, golden("vtc_cls_e2e")["full_img0_tokens"])


@pytest.mark.parametrize("keep", BUDGETS)
def test_fastervlm(keep):
    expected = golden("fastervlm")
    run = compressed(METHODS["fastervlm"](keep=keep))
    np.testing.assert_array_equal(run.kept[0], expected[f"n{keep}_idx"][0])
    np.testing.assert_allclose(run.scores[0], expected["scores"][0], **SCORES)


@pytest.mark.parametrize("keep", BUDGETS)
def test_visionzip(keep):
    expected = golden("visionzip")
    run = compressed(METHODS["visionzip"](keep=keep))
    tokens = tokens_before_projector(run)
    np.testing.assert_array_equal(run.kept[0], expected[f"n{keep}_dominant"][0])
    np.testing.assert_allclose(run.scores[0], expected["scores"][0], **SCORES)
    np.testing.assert_allclose(tokens, expected[f"n{keep}_out"][0], **MERGED)


VISPRUNER = sorted(name[: -len("_f64_idx")] for name in golden("vispruner") if name.endswith("_f64_idx"))


@pytest.mark.parametrize("name", VISPRUNER)
def test_vispruner_in_float64(name):
    expected, trunk = golden("vispruner"), golden("trunk")
    ratio, keep = (int(part[1:]) for part in name.split("_"))
    features = torch.from_numpy(trunk["hidden_m2"][:, 1:]).double()
    scores = torch.from_numpy(trunk["cls_attn_mean"][:, 22]).double()
    recipe = METHODS["vispruner"](keep=keep, important_ratio=ratio / 100)
    kept = recipe.selector.select(scores, Trace({Features(): features}, (Grid(24, 24),), 1), keep)
    np.testing.assert_array_equal(kept, expected[f"{name}_f64_idx"])


@pytest.mark.parametrize("keep", BUDGETS)
def test_vispruner_attached(keep):
    """In float32 the diverse half depends on rounding; the important one does not."""
    run = compressed(METHODS["vispruner"](keep=keep))
    assert set(golden("vispruner")[f"r50_n{keep}_important"][0]) <= set(run.kept[0].tolist())
    assert len(run.kept[0]) == keep


def test_vispruner_attached_without_a_diverse_half():
    run = compressed(METHODS["vispruner"](keep=64, important_ratio=1.0))
    np.testing.assert_array_equal(run.kept[0], golden("vispruner")["r100_n64_idx"][0])


PRUMERGE = [("prumerge", "prumerge", None, "base"), ("prumerge_plus", "prumerge", None, "plus")]
PRUMERGE += [("prumerge", "prumerge", keep, f"base_n{keep}") for keep in BUDGETS]
PRUMERGE += [("prumerge_plus", "prumerge_vtc", keep, None) for keep in (64, 128, 192)]


@pytest.mark.parametrize(("method", "file", "keep", "key"), PRUMERGE)
def test_prumerge(method, file, keep, key):
    expected = golden(file)
    key = key or next(name[: -len("_img0_idx")] for name in expected if name.endswith(f"{keep}_img0_idx"))
    run = compressed(METHODS[method](keep=keep))
    tokens = tokens_before_projector(run)
    order = run.decisions[0].compression.origin[0]
    np.testing.assert_array_equal(order[order >= 0], expected[f"{key}_img0_idx"])
    np.testing.assert_array_equal(run.kept[0], np.sort(expected[f"{key}_img0_idx"]))
    np.testing.assert_allclose(run.scores[0], expected["scores"][0], **SCORES)
    np.testing.assert_allclose(tokens, expected[f"{key}_img0_out"], **MERGED)


@pytest.mark.parametrize("keep", BUDGETS)
def test_divprune(keep):
    run = compressed(METHODS["divprune"](keep=keep))
    np.testing.assert_array_equal(run.kept[0], golden("divprune")[f"n{keep}_idx"][0])


def test_divprune_with_the_published_ratio():
    run = compressed(METHODS["divprune"](keep=0.098))
    np.testing.assert_array_equal(run.kept[0], golden("divprune")["n098_idx"][0])


def aligned_trace(name, embeds, *more):
    """A trace with the golden tower's patches and text in CLIP's space."""
    trunk = golden("trunk")
    recipe = METHODS[name](keep=64)
    text = next(need for need in recipe.needs if isinstance(need, AlignedText))
    values = {AlignedPatches(): torch.from_numpy(trunk["image_embeds_m2"]), text: torch.from_numpy(embeds)[None]}
    return Trace({**values, **dict(more)}, (Grid(24, 24),), 1)


@pytest.mark.parametrize("keep", BUDGETS)
def test_cdpruner(keep):
    expected, trunk = golden("cdpruner"), golden("trunk")
    wide = nn.Sequential(nn.Linear(64, 512), nn.GELU(), nn.Linear(512, 512)).double()
    inputs.load_projector(wide, wide=True)
    with torch.no_grad():
        projected = wide(torch.from_numpy(trunk["hidden_m2"][:, 1:]).double())
    recipe = METHODS["cdpruner"](keep=keep)
    trace = aligned_trace("cdpruner", expected["text_embeds_img0"], (Features(True), projected))
    scores = recipe.scorer.score(trace)
    np.testing.assert_allclose(scores, expected["relevance"], rtol=1e-5, atol=1e-6)
    kept = recipe.selector.select(scores.double(), trace, keep)
    np.testing.assert_array_equal(kept, expected[f"n{keep}_idx"])
    np.testing.assert_array_equal(kept, expected[f"n{keep}_f64_idx"])


@pytest.mark.parametrize("keep", (*BUDGETS, None))
def test_trim(keep):
    expected, trunk = golden("trim"), golden("trunk")
    recipe = METHODS["trim"](keep=keep)
    trace = aligned_trace("trim", expected["text_embeds"][:1])
    scores = recipe.scorer.score(trace)
    np.testing.assert_allclose(scores, expected["scores"], **SCORES)
    kept = recipe.selector.select(scores, trace, keep or 576)
    name = "auto" if keep is None else f"n{keep}"
    np.testing.assert_array_equal(kept[0], expected[f"{name}_img0_idx"])
    if f"{name}_img0_out" in expected:
        features = torch.from_numpy(trunk["hidden_m2"][:, 1:])
        tokens = recipe.merger.merge(features, kept, scores, trace, keep or 576).apply(features)
        np.testing.assert_allclose(tokens[0], expected[f"{name}_img0_out"], **MERGED)


@pytest.mark.parametrize("keep", BUDGETS)
@pytest.mark.parametrize("alpha", (0.1, 0.5))
@pytest.mark.parametrize("object_layer", (9, 16))
def test_hiprune(keep, alpha, object_layer):
    expected = golden("hiprune")
    name = f"l{object_layer}_a{round(100 * alpha)}_n{keep}_idx"
    run = compressed(METHODS["hiprune"](keep=keep, alpha=alpha, object_layer=object_layer))
    np.testing.assert_array_equal(run.kept[0], expected[name][0])


@pytest.mark.parametrize("keep", BUDGETS)
@pytest.mark.parametrize("chunks", (16, 8))
def test_holov_in_float64(keep, chunks):
    trunk, expected = golden("trunk"), golden("holov")[f"p{chunks}_n{keep}_order"]
    recipe = METHODS["holov"](keep=keep, chunks=chunks)
    scores = torch.from_numpy(trunk["cls_attn_mean"][:, 22]).double()
    trace = Trace({ClsRows((-2,)): scores[:, None, None].float()}, (Grid(24, 24),), 1)
    kept = recipe.selector.select(scores, trace, keep)
    np.testing.assert_array_equal(kept, expected)
    features = torch.from_numpy(trunk["hidden_m2"][:, 1:])
    tokens = recipe.merger.merge(features, kept, scores.float(), trace, keep).apply(features)[0]
    assert tokens.shape[0] == keep
    assert (tokens[torch.from_numpy(expected[0] == -1)] == 0).all()


@pytest.mark.parametrize("keep", BUDGETS)
def test_holov_attached(keep):
    run = compressed(METHODS["holov"](keep=keep))
    expected = golden("holov")[f"p16_n{keep}_order"][0]
    np.testing.assert_array_equal(run.kept[0], np.sort(expected[expected >= 0]))
    assert float(run.tokens) == keep


SCOPE = sorted(name[: -len("_f64_order")] for name in golden("scope") if name.endswith("_f64_order"))


@pytest.mark.parametrize("name", SCOPE)
def test_scope(name):
    combine, alpha, keep = name.split("_")
    keep = int(keep[1:])
    recipe = METHODS["scope"](keep=keep, alpha=int(alpha[1:]) / 100, combine=combine)
    run = compressed(recipe)
    np.testing.assert_array_equal(run.kept[0], np.sort(golden("scope")[f"{name}_f64_order"][0]))


@pytest.mark.parametrize("keep", BUDGETS)
def test_flowcut(keep):
    run = compressed(METHODS["flowcut"](keep=keep))
    np.testing.assert_array_equal(run.kept[0], golden("flowcut")[f"n{keep}_idx"][0])


@pytest.mark.parametrize("keep", (288, *BUDGETS))
@pytest.mark.parametrize("layer", (2, 3))
def test_fastv(layer, keep):
    """Kept tokens and logits are those of its in-place version, tokens those of a clean key-value cache."""
    expected = golden("fastv")
    run, logits, tokens = generated(
        METHODS["fastv"](keep=keep, layer=layer), golden_prompt(), golden_llava(), mm_encoder_outputs=encoder_outputs()
    )
    np.testing.assert_array_equal(run.kept[0], expected[f"K{layer}_s35_n{keep}_p0_idx"])
    np.testing.assert_allclose(run.scores[0], expected[f"K{layer}_s35_p0_row"], **SCORES)
    np.testing.assert_allclose(logits, expected[f"inplace_K{layer}_s35_n{keep}_p0_logits"], **LOGITS)
    np.testing.assert_array_equal(tokens, expected[f"kvclean_K{layer}_n{keep}_p0_tokens"])


@pytest.mark.parametrize("keep", (288, *BUDGETS))
@pytest.mark.parametrize("layer", (2, 3))
def test_fastv_as_its_cached_version(layer, keep):
    expected, name = golden("fastv_kvcache"), f"K{layer}_n{keep}_p0"
    run, logits, tokens = generated(
        METHODS["fastv"](keep=keep, layer=layer), golden_prompt(), golden_llava(), mm_encoder_outputs=encoder_outputs()
    )
    np.testing.assert_array_equal(run.kept[0], expected[f"{name}_idx"])
    np.testing.assert_allclose(logits, expected[f"{name}_logits"], **LOGITS)
    np.testing.assert_array_equal(tokens, expected[f"{name}_tokens"])


def test_fastv_counts_a_fraction_as_the_authors_do():
    run, _, _ = generated(
        METHODS["fastv"](keep=0.1, layer=2), golden_prompt(), golden_llava(), 1, mm_encoder_outputs=encoder_outputs()
    )
    assert run.tokens.left.tolist() == [57]


@pytest.mark.parametrize("setting", ("paper_like", "early", "two"))
def test_pyramiddrop(setting):
    expected = golden("pyramiddrop")
    given = json.loads((GOLDEN / "pyramiddrop.json").read_text())["settings"][setting]
    compressor = METHODS["pyramiddrop"](
        layers=tuple(given["layer_list"]), ratios=tuple(given["image_token_ratio_list"])
    )
    run, logits, tokens = generated(compressor, golden_prompt(), golden_llava(), mm_encoder_outputs=encoder_outputs())
    before = np.arange(576)
    for number, decision in enumerate(run.decisions[1:]):
        kept = expected[f"{setting}_p0_stage{number}_idx"]
        np.testing.assert_array_equal(decision.compression.kept[0], kept)
        np.testing.assert_allclose(decision.scores[0, before], expected[f"{setting}_p0_stage{number}_row"], **SCORES)
        before = kept
    np.testing.assert_allclose(logits, expected[f"{setting}_p0_logits"], **LOGITS)
    np.testing.assert_array_equal(tokens, expected[f"{setting}_p0_tokens"])
    np.testing.assert_array_equal(run.tokens.per_block[0] + 55, expected[f"{setting}_p0_cachelen"])


TIED = {
    "v1_0_n64"
}  # two tokens that are each other's nearest always tie: which comes first is arbitrary, see the .json


@pytest.mark.parametrize("keep", (192, 128, 96, 64))
@pytest.mark.parametrize(("method", "version"), (("sparsevlm", "v1_0"), ("sparsevlm_plus", "v2_0")))
def test_sparsevlm(method, version, keep):
    expected, name = golden("sparsevlm"), f"{version}_n{keep}_p0"
    run, logits, tokens = generated(
        METHODS[method](keep=keep),
        golden_prompt(dim=128),
        golden_llava(sparse=True),
        mm_encoder_outputs=encoder_outputs(128),
    )
    # the authors count after a layer, we before the next
    np.testing.assert_array_equal(run.tokens.per_block[0, 1:], expected[f"{name}_vtoknum"][:-1])
    np.testing.assert_array_equal(run.decisions[1].compression.kept[0], expected[f"{name}_stage0_idx"])
    rtol = 1e-5 if version == "v1_0" else 1e-3  # divided by a product that may be near 0
    np.testing.assert_allclose(run.decisions[1].scores[0], expected[f"{name}_stage0_score"], rtol=rtol)
    np.testing.assert_allclose(logits, expected[f"{name}_logits"], **LOGITS)
    np.testing.assert_array_equal(tokens, expected[f"{name}_tokens"])
