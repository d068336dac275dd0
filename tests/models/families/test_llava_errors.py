"""Calls, budgets and checkpoints that LLaVA does not support raise errors that say what to do."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import DynamicCache, LlavaForConditionalGeneration, SiglipVisionConfig

from foveate.compressors import VisionCompressor
from foveate.core.errors import BudgetError, FoveateError, LayerError, UnsupportedModel, UnsupportedNeed
from foveate.mergers import Contextual
from foveate.methods import (
    cdpruner,
    divprune,
    evidence,
    fastv,
    flowcut,
    pyramiddrop,
    sparsevlm,
    sparsevlm_plus,
    tome,
    uniform,
    visionzip,
    vscan,
    vtc_cls,
)
from foveate.models.loading.load import adapt, load
from foveate.reference.architecture import clip_config, llava_config
from foveate.scorers import ReceivedAttention
from foveate.testing.tiny import save_tiny_llava, tiny_llava
from tests.image_files import live_images
from tests.models.families.test_llava import inputs_of


@pytest.mark.parametrize("compressor", [vtc_cls(16, 1), fastv(16, 1)], ids=repr)
def test_a_call_without_an_image_is_refused(loaded, compressor):
    ids = torch.tensor([loaded.processor.tokenizer("what color is the star?")["input_ids"]])
    with compressor.attached(loaded.model) as run:
        for call in (loaded.model.generate, loaded.model):
            with pytest.raises(FoveateError, match=r"no image.*nothing to compress: leave the `with`"):
                call(input_ids=ids)
        with pytest.raises(LookupError, match="there is no result yet"):
            _ = run.kept


@pytest.mark.parametrize(
    ("compressor", "error", "message"),
    [
        (vtc_cls(200, 1), BudgetError, r"keep=200.*144 patches"),
        (vtc_cls(0, 1), BudgetError, r"keep=0: .*keep 1\.\.144"),
        (vtc_cls(-3, 1), BudgetError, r"keep=-3: .*keep 1\.\.144"),
        (vtc_cls(1.5, 1), BudgetError, r"keep=1.5: a fraction lies in \(0, 1\]"),
        (vtc_cls(0.0, 1), BudgetError, r"keep=0.0: a fraction lies in \(0, 1\]"),
        (vscan(-3, layer=2, local_layer=1), BudgetError, r"keep=-3: .*keep 1\.\.144"),
        (vscan(120, layer=2, local_layer=1), BudgetError, r"keep=120: 1.5 times as many patches are needed.*144"),
        (sparsevlm(180, after=(0, 1, 9)), LayerError, r"layer 10: this language model has 8 layers"),
        (VisionCompressor(ReceivedAttention(-2), 1, merger=Contextual()), BudgetError, "keep=1: Contextual.*keep more"),
        (fastv(0, 1), BudgetError, r"keep=0: .*keep 1\.\.144"),
        (fastv(200, 1), BudgetError, r"keep=200.*144 patches"),
        (fastv(1.5, 1), BudgetError, r"keep=1.5: a fraction lies in \(0, 1\]"),
        (visionzip(1), BudgetError, r"keep=1: Contextual.*makes 1 tokens, keep more"),
        (vtc_cls(16, 16), LayerError, r"layer 16.*tower has 8 layers"),
        (fastv(16, 9), LayerError, r"layer 9: this language model has 8 layers, choose 0\.\.7"),
        (fastv(16, 0), LayerError, r"layer 0: no block has run before block 0"),
        (pyramiddrop(layers=(2, 1, 3)), FoveateError, r"blocks \[2, 1, 3\].*ascending"),
        (evidence(16), UnsupportedNeed, "cannot answer it from these inputs"),
        (cdpruner(16), UnsupportedNeed, "text encoder.*companion="),
    ],
    ids=repr,
)
def test_what_the_model_cannot_do_raises_a_helpful_error(loaded, samples, compressor, error, message):
    inputs = inputs_of(loaded, [samples[0].question], [[samples[0].image]])
    with pytest.raises(error, match=message), compressor.attached(loaded.model):
        loaded.model.generate(**inputs, max_new_tokens=2)


def test_prompts_with_different_numbers_of_images_are_refused_inside_the_language_model(loaded, samples):
    image = samples[0].image
    for images, message in (
        ([[image], [image, image]], r"have \[1, 2\] images.*equally many"),
        ([[image], []], r"prompt 1 of the batch has no image"),
    ):
        inputs = inputs_of(loaded, [samples[0].question] * 2, images)
        with fastv(16, 1).attached(loaded.model), pytest.raises(FoveateError, match=message):
            loaded.model.generate(**inputs, max_new_tokens=2)


@pytest.mark.parametrize("recipe", [sparsevlm, sparsevlm_plus])
@pytest.mark.parametrize("keep", [0, -3, 193, 0.5, 1.5, 0.0])
def test_sparsevlms_lists_have_names(recipe, keep):
    with pytest.raises(BudgetError, match=rf"keep={keep}: .*give an int 1\.\.192"):
        recipe(keep)


def test_recipes_with_several_cuts_want_one_number_each():
    with pytest.raises(BudgetError, match="3 ratios for cuts before 2 blocks"):
        pyramiddrop(layers=(1, 2))
    with pytest.raises(BudgetError, match="2 cuts: SparseVLM's lists have three counts"):
        sparsevlm(64, after=(1, 2))


def test_what_does_not_go_on_from_a_cache_is_refused(loaded, samples):
    inputs = inputs_of(loaded, [samples[0].question], [[samples[0].image]])
    model, more = loaded.model, torch.full((1, 3), 9)
    ids = torch.cat([inputs["input_ids"], more], 1)
    image = torch.full((1, 1), loaded.adapter.image_token)
    with vtc_cls(16, 1).attached(model):
        cache = model(**inputs, use_cache=True).past_key_values
        for wrong, message in (
            ({"input_ids": more}, "do not begin with the"),
            ({"input_ids": ids[:, :-3]}, r"expected the whole conversation with new tokens at its end"),
            ({"input_ids": torch.cat([ids, image, image], 1)}, "new images after past_key_values"),
            ({"input_ids": ids.repeat(2, 1)}, "began with 1 prompts .* for 2 prompts"),
            ({"input_ids": ids, "attention_mask": torch.ones(1, 4)}, r"shape \(1, 4\): expected \(1, "),
            ({"input_ids": ids, "position_ids": torch.arange(ids.shape[1])[None]}, "position_ids were given"),
        ):
            with pytest.raises(FoveateError, match=message):
                model.generate(**wrong, past_key_values=cache, max_new_tokens=2)
        with pytest.raises(FoveateError, match="new images after"):
            model(input_ids=image, pixel_values=inputs["pixel_values"], past_key_values=cache)
        with pytest.raises(FoveateError, match=r"shape \(1, 4\): expected \(1, "):
            model(input_ids=more, attention_mask=torch.ones(1, 4), past_key_values=cache)
    with fastv(16, 1).attached(model):
        with pytest.raises(FoveateError, match=r"already hold tokens.*Give the whole conversation without"):
            model.generate(input_ids=ids, past_key_values=cache, max_new_tokens=2)
        with pytest.raises(FoveateError, match="no image"):
            model.generate(input_ids=more, past_key_values=DynamicCache(), max_new_tokens=2)
        cut = model(**inputs, use_cache=True).past_key_values
    with vtc_cls(16, 1).attached(model):
        for call, given in ((model.generate, ids), (model, more)):
            with pytest.raises(FoveateError, match="cuts inside the language model"):
                call(input_ids=given, past_key_values=cut)


def test_positions_and_masks_of_the_callers_own_are_refused(loaded, samples):
    inputs = inputs_of(loaded, [samples[0].question], [[samples[0].image]])
    length = inputs["input_ids"].shape[1]
    embeds = loaded.model.get_input_embeddings()(inputs["input_ids"])
    for given, error, message in (
        ({"position_ids": torch.arange(length)[None]}, FoveateError, "position_ids were given"),
        ({"attention_mask": torch.ones(1, 1, length, length)}, FoveateError, r"attention_mask \(shape \(1, 1, "),
        ({"attention_mask": {"full_attention": None}}, FoveateError, r"attention_mask \(dict\)"),
        ({"inputs_embeds": embeds}, ValueError, "input_ids and inputs_embeds were both given"),
    ):
        with vtc_cls(16, 1).attached(loaded.model), pytest.raises(error, match=message):
            loaded.model(**{**inputs, **given})


def test_images_are_given_once_and_whole(loaded, samples):
    inputs = inputs_of(loaded, [samples[0].question], [[samples[0].image]])
    given = {"image": loaded.model.get_image_features(inputs["pixel_values"], return_dict=True)}
    with uniform(16).attached(loaded.model):
        with pytest.raises(ValueError, match="pixel_values and mm_encoder_outputs were both given"):
            loaded.model.generate(**inputs, mm_encoder_outputs=given)
        given["image"].pooler_output = [torch.zeros(144, 128), torch.zeros(9, 128)]
        with pytest.raises(ValueError, match=r"holds \[144, 9\] tokens: expected equally many"):
            loaded.model.generate(input_ids=inputs["input_ids"], mm_encoder_outputs=given)
        given["image"].pooler_output = [torch.zeros(9, 128)]
        with pytest.raises(ValueError, match="holds 9 tokens per image: expected one for each of the 144 patches"):
            loaded.model.generate(input_ids=inputs["input_ids"], mm_encoder_outputs=given)


def test_placeholders_that_do_not_fit_the_images_are_counted(loaded, samples):
    inputs = inputs_of(loaded, [samples[0].question], [[samples[0].image]])
    inputs["pixel_values"] = inputs["pixel_values"].repeat(2, 1, 1, 1)
    with (
        vtc_cls(16, 1).attached(loaded.model),
        pytest.raises(ValueError, match=r"\[144\] image tokens.*runs of \[144, 144\]"),
    ):
        loaded.model.generate(**inputs, max_new_tokens=2)


def test_a_second_compressor_on_the_same_model_is_refused(loaded):
    with (
        uniform(4).attached(loaded.model),
        pytest.raises(FoveateError, match="already"),
        uniform(4).attached(loaded.model),
    ):
        pass


def test_a_tower_without_cls_is_named(samples):
    config = llava_config(clip_config().vision_config)
    config.vision_config = SiglipVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=96, patch_size=8
    )
    config.vision_feature_select_strategy = "full"
    adapter = adapt(LlavaForConditionalGeneration(config))
    with pytest.raises(UnsupportedNeed, match=r"Siglip.*ClsRows.*no \[CLS\].*fitting\.with_fallbacks"):
        live_images(adapter, torch.zeros(1, 3, 96, 96)).encode(vtc_cls(16, 1).needs)
    with pytest.raises(UnsupportedNeed, match=r"InformationFlow.*\[CLS\]"):
        flowcut(16).compress(live_images(adapter, torch.zeros(1, 3, 96, 96)))
    fallback = VisionCompressor(ReceivedAttention(-2), 40)
    for compressor in (uniform(40), fallback, divprune(40), tome(40)):
        compressed = compressor.compress(live_images(adapter, torch.rand(2, 3, 96, 96)))
        assert compressed.tokens.shape == (2, 40, 128)


def test_checkpoints_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(UnsupportedModel, match=r"no-such-folder': there is no such folder; expected 'reference'"):
        load(tmp_path / "no-such-folder")
    for other in ("bert", "gemma4", "molmo2"):
        (tmp_path / "config.json").write_text(f'{{"model_type": "{other}"}}')
        with pytest.raises(UnsupportedModel, match=rf"'{other}'; supported: llava, .*gemma3.*glm46v"):
            load(tmp_path)
    tiny_llava().save_pretrained(tmp_path / "bare")
    with pytest.raises(UnsupportedModel, match="incomplete"):
        load(tmp_path / "bare")
    whole = save_tiny_llava(tmp_path / "whole")
    with pytest.raises(UnsupportedModel, match=r"dtype 'fp16' is unknown; known: float32"):
        load(whole, dtype="fp16")
    with pytest.raises(UnsupportedModel, match="device 'gpu' cannot be used"):
        load(whole, device="gpu")
    weights = load_file(whole / "model.safetensors")
    save_file({name: value for name, value in weights.items() if "lm_head" not in name}, whole / "model.safetensors")
    with pytest.raises(UnsupportedModel, match="lacks 1 of its weights, such as lm_head"):
        load(whole)
    (whole / "model.safetensors").write_bytes(b"not a tensor in sight")
    with pytest.raises(UnsupportedModel, match="incomplete"):
        load(whole)
    with pytest.raises(UnsupportedModel, match="LlavaModel is not supported"):
        adapt(tiny_llava().model)
    with pytest.raises(UnsupportedModel, match="Linear is not supported"):
        adapt(nn.Linear(2, 2))
