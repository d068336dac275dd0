from copy import deepcopy
from itertools import groupby

import pytest
import torch
from PIL import Image
from torch import nn
from transformers import DynamicCache, GenerationConfig, LlavaForConditionalGeneration

from foveate.compressors import Blind, Compressor, Identity, VisionCompressor
from foveate.core.layers import LayersFrom
from foveate.methods import (
    fastv,
    random,
    uniform,
    vtc_cls,
)
from foveate.models.loading.load import LoadedModel, adapt
from foveate.models.runtime.generation import Conversation, Decoding, answer
from foveate.scorers import ClsAttention, ClsEnsemble, Random
from tests.image_files import live_images

NEW = 6


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
    """Returns greedy tokens of one unpadded prompt by full passes without cache over embeddings joined here."""
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
        Conversation.from_prompts([loaded.prompt(s.question) for s in group], adapter.placeholders) for group in groups
    ]
    shared = answer(adapter, conversations, compressed, compressor.repack, Decoding(NEW)).tokens
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
    inputs = inputs_of(loaded, [samples[0].question, samples[4].question], [[samples[0].image]] * 2)
    assert not inputs["attention_mask"].all()
    with vtc_cls(16, 1).attached(loaded.model):
        expected = loaded.model.generate(**inputs, max_new_tokens=4)
        del inputs["attention_mask"]
        assert torch.equal(loaded.model.generate(**inputs, max_new_tokens=4), expected)


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


def turned(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_padding_is_what_generate_takes_for_it(loaded, samples, monkeypatch):
    inputs = inputs_of(loaded, [samples[0].question, samples[4].question], [[samples[0].image]] * 2)
    assert not inputs["attention_mask"].all()
    with fastv(16, 1).attached(loaded.model):
        expected = loaded.model.generate(**inputs, max_new_tokens=4)
        del inputs["attention_mask"]
        monkeypatch.setattr(loaded.model.config.text_config, "pad_token_id", None)
        monkeypatch.setattr(loaded.model.generation_config, "pad_token_id", 0)
        assert torch.equal(loaded.model.generate(**inputs, max_new_tokens=4), expected)


@pytest.mark.parametrize(("layer", "runs"), [(-2, 0), (-1, 1)])
def test_blocks_behind_the_features_run_only_for_who_reads_them(loaded, samples, layer, runs):
    last = []
    block = loaded.model.model.vision_tower.encoder.layers[-1]
    handle = block.register_forward_pre_hook(lambda *_: last.append(1))
    try:
        with VisionCompressor(ClsAttention(layer), 20).attached(loaded.model):
            loaded.model(**inputs_of(loaded, ["what?"], [[samples[0].sources[0].open()]]))
    finally:
        handle.remove()
    assert loaded.model.config.vision_feature_layer == -2
    assert len(last) == runs


def test_images_of_any_mode_are_read(loaded):
    assert loaded.image_inputs([Image.new(mode, (50, 70)) for mode in ("L", "RGBA", "P")])[0]["pixel_values"].shape == (
        3,
        3,
        96,
        96,
    )
