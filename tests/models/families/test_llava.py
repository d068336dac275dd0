from copy import deepcopy
from itertools import groupby

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import DynamicCache, GenerationConfig, LlavaForConditionalGeneration, SiglipVisionConfig

from foveate.compressors import Blind, Compressor, Identity, VisionCompressor
from foveate.core.errors import BudgetError, FoveateError, LayerError, UnsupportedModel, UnsupportedNeed
from foveate.core.layers import LayersFrom
from foveate.data.load import load_samples
from foveate.mergers import Contextual
from foveate.methods import (
    cdpruner,
    divprune,
    evidence,
    fastv,
    flowcut,
    pyramiddrop,
    random,
    sparsevlm,
    sparsevlm_plus,
    tome,
    uniform,
    visionzip,
    vscan,
    vtc_cls,
)
from foveate.models.loading.load import LoadedModel, adapt, load
from foveate.models.runtime.generation import Conversation, answer
from foveate.reference.architecture import clip_config, llava_config
from foveate.scorers import ClsAttention, ClsEnsemble, Random, ReceivedAttention
from foveate.testing.tiny import save_tiny_llava, tiny_llava
from tests.image_files import live_images

NEW = 6


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> LoadedModel:
    return load(save_tiny_llava(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def samples():
    return load_samples("scenes", "search", limit=33)


def inputs_of(loaded: LoadedModel, questions, images):
    texts = [
        loaded.processor.apply_chat_template(
            [{"role": "user", "content": [*[{"type": "image"}] * len(own), {"type": "text", "text": question}]}],
            add_generation_prompt=True,
        )
        for question, own in zip(questions, images, strict=True)
    ]
    flat = [image for own in images for image in own]
    return loaded.processor(text=texts, images=flat, padding=True, return_tensors="pt")


def by_hand(model: LlavaForConditionalGeneration, compressor: Compressor, ids, pixels) -> list[int]:
    """Greedy tokens of one unpadded prompt: every step a full pass without cache over embeddings put together here."""
    adapter = adapt(model)
    compressed = compressor.compress(live_images(adapter, pixels))
    tokens = iter(compressed.tokens.flatten(0, 1))
    stays = [[p in kept for p in range(144)] for kept in compressed.decision.compression.kept]
    stays = iter([stay for image in stays for stay in image])
    table = model.model.language_model.embed_tokens.weight
    embeds, places = [], []
    for place, token in enumerate(ids.tolist()):
        if token != adapter.image_token:
            embeds.append(table[token])
            places.append(place)
        elif next(stays):
            embeds.append(next(tokens))
            places.append(place)
    new: list[int] = []
    for _ in range(NEW):
        position = torch.tensor(places if compressor.positions == "original" else range(len(embeds)))[None]
        states = model.model.language_model(
            inputs_embeds=torch.stack(embeds)[None],
            position_ids=position,
            attention_mask=torch.ones_like(position),
            use_cache=False,
        ).last_hidden_state
        logits = model.lm_head(states[0, -1])
        logits[model.generation_config.eos_token_id] = -torch.inf  # as min_new_tokens does
        new.append(int(logits.argmax()))
        embeds.append(table[new[-1]])
        places.append(places[-1] + 1)
    return new


COMPRESSORS = [
    Identity(),
    vtc_cls(36, 1),
    VisionCompressor(ClsEnsemble(LayersFrom(1)), 16, positions="original"),
    random(7),
    uniform(1),
    Blind(),
]


@torch.no_grad()
@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
def test_attached_generation_equals_a_full_recomputation_with_padding_and_several_images(loaded, samples, compressor):
    images = [[samples[0].image], [samples[11].image, samples[22].image], [samples[22].image]]
    questions = [samples[0].question, samples[11].question, samples[31].question]
    inputs = inputs_of(loaded, questions, images)
    assert not inputs["attention_mask"].all()
    length = inputs["input_ids"].shape[1]
    with compressor.attached(loaded.model) as run:
        output = loaded.model.generate(**inputs, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
    assert torch.equal(output[:, :length], inputs["input_ids"])
    assert [len(kept) for kept in run.kept] == run.decisions[0].compression.count.tolist()
    assert len(run.kept) == 4
    assert run.tokens.given.tolist() == [len(run.kept[0]) * len(own) for own in images]
    first = 0
    for row, own in enumerate(images):
        ids = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
        expected = by_hand(loaded.model, compressor, ids, inputs["pixel_values"][first : first + len(own)])
        first += len(own)
        assert output[row, length:].tolist() == expected


@torch.inference_mode()
@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
def test_the_engine_that_shares_images_answers_like_attached_generate(loaded, samples, compressor):
    groups = [list(group) for _, group in groupby(samples, key=lambda sample: sample.image_id)]
    adapter = loaded.adapter
    compressed = compressor.compress(loaded.images([group[0].image for group in groups]))
    conversations = [
        Conversation.from_prompts([loaded.prompt(s.question) for s in group], adapter.image_token) for group in groups
    ]
    shared = answer(adapter, conversations, compressed, compressor.repack, NEW).tokens
    flat = [sample for group in groups for sample in group]
    with compressor.attached(loaded.model):
        for sample, tokens in zip(flat, shared, strict=True):
            inputs = inputs_of(loaded, [sample.question], [[sample.image]])
            output = loaded.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
            alone = output[0, inputs["input_ids"].shape[1] :].tolist()
            assert [t for t in alone if t != loaded.model.generation_config.eos_token_id] == tokens


def test_prompts_equal_those_of_the_stock_processor(loaded, samples):
    inputs = inputs_of(loaded, [samples[0].question], [[samples[0].image]])
    assert loaded.prompt(samples[0].question) == inputs["input_ids"][0].tolist()
    torch.testing.assert_close(loaded.image_inputs([samples[0].image])[0]["pixel_values"], inputs["pixel_values"])


def test_forward_with_labels_is_compressed_too(loaded, samples):
    inputs = inputs_of(loaded, [s.question for s in samples[:2]], [[s.image] for s in samples[:2]])
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == loaded.adapter.image_token, -100)
    with torch.no_grad(), vtc_cls(16, 1).attached(loaded.model):
        output = loaded.model(**inputs, labels=labels)
    assert output.logits.shape[1] == inputs["input_ids"].shape[1] - 144 + 16
    assert output.loss.isfinite()


def test_the_model_is_as_it_was_after_the_with_also_after_an_exception(loaded, samples):
    model: nn.Module = loaded.model
    inputs = inputs_of(loaded, [samples[0].question], [[samples[0].image]])
    before, expected = dict(vars(model)), model.generate(**inputs, max_new_tokens=4)
    with pytest.raises(RuntimeError, match="mine"), vtc_cls(16, 1).attached(model):
        raise RuntimeError("mine")
    assert vars(model).keys() == before.keys()
    assert torch.equal(model.generate(**inputs, max_new_tokens=4), expected)
    assert model.model.vision_tower.config._attn_implementation == "sdpa"


def test_arguments_by_position_are_compressed_too(loaded, samples):
    inputs = inputs_of(loaded, [samples[0].question], [[samples[0].image]])
    by_name = dict(inputs, max_new_tokens=4)
    with vtc_cls(16, 1).attached(loaded.model):
        expected = loaded.model.generate(**by_name)
        ids = by_name.pop("input_ids")
        assert torch.equal(loaded.model.generate(ids, **by_name), expected)
        logits = loaded.model(inputs["input_ids"], inputs["pixel_values"], inputs["attention_mask"]).logits
    assert logits.shape[1] == ids.shape[1] - 144 + 16


def test_a_missing_mask_is_read_off_the_padding(loaded, samples):
    inputs = inputs_of(loaded, [samples[0].question, samples[8].question], [[samples[0].image]] * 2)
    assert not inputs["attention_mask"].all()
    with vtc_cls(16, 1).attached(loaded.model):
        expected = loaded.model.generate(**inputs, max_new_tokens=4)
        del inputs["attention_mask"]
        assert torch.equal(loaded.model.generate(**inputs, max_new_tokens=4), expected)


@pytest.mark.parametrize("compressor", [vtc_cls(16, 1), fastv(16, 1)], ids=repr)
def test_a_call_without_an_image_is_refused(loaded, compressor):
    ids = torch.tensor([loaded.processor.tokenizer("what color is the star?")["input_ids"]])
    with compressor.attached(loaded.model) as run:
        for call in (loaded.model.generate, loaded.model):
            with pytest.raises(FoveateError, match=r"no image.*nothing to compress: leave the `with`"):
                call(input_ids=ids)
        with pytest.raises(LookupError, match="nothing was compressed yet"):
            _ = run.kept


def test_a_conversation_goes_on_without_an_image(loaded, samples):
    inputs = inputs_of(loaded, [samples[0].question], [[samples[0].image]])
    with vtc_cls(16, 1).attached(loaded.model):
        first = loaded.model(**inputs, use_cache=True)
        more = torch.tensor([loaded.processor.tokenizer("what color is the star?")["input_ids"]])
        output = loaded.model(input_ids=more, past_key_values=first.past_key_values)
    assert output.logits.shape[1] == more.shape[1]


def test_beams_and_several_sequences_return_the_full_prompt(loaded, samples):
    inputs = inputs_of(loaded, [s.question for s in samples[:2]], [[s.image] for s in samples[:2]])
    with vtc_cls(16, 1).attached(loaded.model):
        output = loaded.model.generate(**inputs, num_beams=3, num_return_sequences=2, max_new_tokens=3, do_sample=False)
    assert torch.equal(output[:, : inputs["input_ids"].shape[1]], inputs["input_ids"].repeat_interleave(2, 0))


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
        (sparsevlm(180, after=(0, 1, 9)), LayerError, r"layer 10: this language model has 4 layers"),
        (VisionCompressor(ReceivedAttention(-2), 1, merger=Contextual()), BudgetError, "keep=1: Contextual.*keep more"),
        (fastv(0, 1), BudgetError, r"keep=0: .*keep 1\.\.144"),
        (fastv(200, 1), BudgetError, r"keep=200.*144 patches"),
        (fastv(1.5, 1), BudgetError, r"keep=1.5: a fraction lies in \(0, 1\]"),
        (visionzip(1), BudgetError, r"keep=1: Contextual.*makes 1 tokens, keep more"),
        (vtc_cls(16, 16), LayerError, r"layer 16.*tower has 6 layers"),
        (fastv(16, 9), LayerError, r"layer 9: this language model has 4 layers, choose 0\.\.3"),
        (fastv(16, 0), LayerError, r"layer 0: no block has run before block 0"),
        (pyramiddrop(layers=(2, 1, 3)), FoveateError, r"blocks \[2, 1, 3\].*ascending"),
        (evidence(16), UnsupportedNeed, "cannot answer it from these inputs"),
        (cdpruner(16), UnsupportedNeed, "text encoder.*companion="),
    ],
    ids=repr,
)
def test_what_the_model_cannot_do_is_said(loaded, samples, compressor, error, message):
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


@torch.no_grad()
def test_limits_of_the_whole_length_count_the_prompt_as_the_caller_knows_it(loaded, samples):
    inputs = inputs_of(loaded, [samples[0].question], [[samples[0].image]])
    length = inputs["input_ids"].shape[1]
    given = {"max_length": length + 3, "min_length": length + 3}
    for compressor in (vtc_cls(16, 1), fastv(16, 1)):
        for options in (given, {"generation_config": GenerationConfig(**given, pad_token_id=0)}):
            with compressor.attached(loaded.model):
                assert loaded.model.generate(**inputs, do_sample=False, **options).shape[1] == length + 3


def test_generate_goes_on_from_a_cache_of_fewer_tokens_than_the_prompt(loaded, samples):
    inputs = inputs_of(loaded, [samples[0].question], [[samples[0].image]])
    options = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True, "min_new_tokens": 2}
    more = torch.tensor([loaded.processor.tokenizer("what color is the star?")["input_ids"]])
    for positions in ("repacked", "original"):
        with VisionCompressor(Random(), 16, positions=positions).attached(loaded.model):
            first = loaded.model.generate(**inputs, **options, max_new_tokens=2, past_key_values=DynamicCache())
            ids = torch.cat([first.sequences, more], 1)
            whole = loaded.model.generate(**{**inputs, **turned(ids)}, **options, max_new_tokens=3)
            for given in (turned(ids), {"input_ids": ids}, {**inputs, **turned(ids)}):
                cache = deepcopy(first.past_key_values)
                second = loaded.model.generate(**given, **options, max_new_tokens=3, past_key_values=cache)
                assert torch.equal(second.sequences, whole.sequences)
                torch.testing.assert_close(torch.stack(second.logits), torch.stack(whole.logits), atol=1e-4, rtol=0)


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


def turned(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_padding_is_what_generate_takes_for_it(loaded, samples, monkeypatch):
    inputs = inputs_of(loaded, [samples[0].question, samples[8].question], [[samples[0].image]] * 2)
    assert not inputs["attention_mask"].all()
    with fastv(16, 1).attached(loaded.model):
        expected = loaded.model.generate(**inputs, max_new_tokens=4)
        del inputs["attention_mask"]
        monkeypatch.setattr(loaded.model.config.text_config, "pad_token_id", None)
        monkeypatch.setattr(loaded.model.generation_config, "pad_token_id", 0)
        assert torch.equal(loaded.model.generate(**inputs, max_new_tokens=4), expected)


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


@pytest.mark.parametrize(("layer", "runs"), [(-2, 0), (-1, 1)])
def test_blocks_behind_the_features_run_only_for_who_reads_them(loaded, samples, layer, runs):
    last = []
    block = loaded.model.model.vision_tower.encoder.layers[-1]
    handle = block.register_forward_pre_hook(lambda *_: last.append(1))
    try:
        with VisionCompressor(ClsAttention(layer), 20).attached(loaded.model):
            loaded.model(**inputs_of(loaded, ["what?"], [[samples[0].source.open()]]))
    finally:
        handle.remove()
    assert loaded.model.config.vision_feature_layer == -2
    assert len(last) == runs


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
    with pytest.raises(UnsupportedModel, match=r"no-such-folder.*neither"):
        load(tmp_path / "no-such-folder")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UnsupportedModel, match=r"'bert'.*supported: llava"):
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


def test_images_of_any_mode_are_read(loaded):
    assert loaded.image_inputs([Image.new(mode, (50, 70)) for mode in ("L", "RGBA", "P")])[0]["pixel_values"].shape == (
        3,
        3,
        96,
        96,
    )
