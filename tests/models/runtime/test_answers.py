import random
from typing import Any

import pytest
import torch

from foveate.compressors import Blind, Identity, VisionCompressor
from foveate.compressors.base import compressed_by
from foveate.core.layers import LayersFrom
from foveate.data.load import load_samples
from foveate.methods import fastv, pyramiddrop, uniform, vtc_cls
from foveate.methods.fitting import with_fallbacks
from foveate.models.loading.load import adapt, load
from foveate.models.runtime.decoder_passes import DecoderPasses
from foveate.models.runtime.generation import Conversation, Decoding, answer, answer_each
from foveate.models.runtime.packing import pack
from foveate.scorers import ClsEnsemble
from foveate.testing.families import IMAGE, image_inputs
from foveate.testing.text_models import llava_with
from tests.image_files import live_images
from tests.tiers import parametrize

NEW = 5
VISION = [Identity(), VisionCompressor(ClsEnsemble(LayersFrom(1)), 16, positions="original"), uniform(9), Blind()]
INSIDE = [fastv(20, 2), pyramiddrop(20, (1, 3))]


@pytest.fixture(scope="module")
def asked(tiny):
    loaded = load(tiny)
    samples = load_samples("scenes", "search", limit=12)
    return loaded, [loaded.prompt(sample.question) for sample in samples], samples


def drafts(loaded, samples, free):
    """Returns right, partly right, wrong, too long and one-token references."""
    end = loaded.adapter.ends[0]
    rows = [loaded.reference(sample.question, sample.references[0]) for sample in samples]
    rows[0], rows[1] = [*free[0], end], free[1]
    rows[2], rows[3] = [*free[2][:2], 7, 8, 9, end], [*free[3], 5, 5, 5, 5, end]
    rows[4] = [end]
    return rows


@torch.inference_mode()
@pytest.mark.parametrize("compressor", [*VISION, *INSIDE], ids=repr)
def test_a_draft_changes_no_answer_and_its_probability_is_that_of_stock_teacher_forcing(asked, compressor):
    loaded, prompts, samples = asked
    llava = loaded.adapter
    rows = range(len(samples))
    images = loaded.image_inputs([samples[i].image for i in rows])[0]["pixel_values"]
    compressed = compressor.compress(live_images(llava, images))

    def answers(references=()):
        decoding = Decoding(NEW, references)
        if compressor.cuts:
            return answer_each(llava, prompts, compressed, compressor.repack, compressor.cuts, decoding)[0]
        alone = [Conversation.from_prompts([prompt], llava.placeholders) for prompt in prompts]
        return answer(llava, alone, compressed, compressor.repack, decoding)

    free = answers()
    assert free.log_probability.isnan().all()
    references = drafts(loaded, samples, free.tokens)
    drafted = answers(references)
    assert drafted.tokens == free.tokens
    if compressor.cuts:
        return
    for row, reference in enumerate(references):
        if llava.image_token in reference:  # stock code would expect an image
            continue
        one = compressor.compress(live_images(llava, images[row : row + 1]))
        inputs, _ = pack(llava, {"input_ids": torch.tensor([prompts[row]])}, one, compressor.repack)
        width = inputs["input_ids"].shape[1]
        start = len(prompts[row]) if not compressor.repack else width
        more = torch.tensor([reference])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], more], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        later = torch.arange(start, start + len(reference))[None]
        inputs["position_ids"] = torch.cat([inputs["position_ids"], later], 1)
        logits = loaded.model(**inputs).logits[0, width - 1 : -1]
        expected = logits.float().log_softmax(-1).gather(1, more[0][:, None]).sum()
        torch.testing.assert_close(drafted.log_probability[row], expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_inside_the_language_model_a_draft_has_the_probability_of_its_tokens_one_after_the_other(asked):
    loaded, prompts, samples = asked
    llava, compressor = loaded.adapter, fastv(20, 2)
    compressed = compressor.compress(loaded.images([sample.image for sample in samples]))
    free = answer_each(llava, prompts, compressed, False, compressor.cuts, Decoding(NEW))[0]
    with compressor.attached(loaded.model):
        for row in range(3):
            ids = torch.tensor([prompts[row]])
            output = loaded.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=loaded.image_inputs([samples[row].image])[0]["pixel_values"],
                max_new_tokens=NEW,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
            said = output.sequences[0, ids.shape[1] :]
            expected = sum(row_[0].log_softmax(-1)[t] for row_, t in zip(output.logits, said, strict=True))
            references = [said.tolist() if i == row else [3] for i in range(len(samples))]
            drafted = answer_each(llava, prompts, compressed, False, compressor.cuts, Decoding(NEW, references))[0]
            assert drafted.tokens == free.tokens
            torch.testing.assert_close(drafted.log_probability[row], expected, atol=1e-4, rtol=1e-4)


def test_a_reference_continues_the_chat_prompt_and_ends(asked):
    loaded, _, samples = asked
    tokens = loaded.reference(samples[0].question, "red star")
    assert loaded.text([tokens]) == ["red star"]
    assert tokens[-1] in loaded.adapter.ends


@torch.inference_mode()
@parametrize("family", ["LLaVA-1.5", "Qwen2.5-VL", "LLaVA-NeXT"], fast=2)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("drafted", [False, True], ids=["without drafts", "with drafts"])
def test_answers_about_one_image_share_its_keys_until_few_are_left(family, attention, drafted, loaded_of, monkeypatch):
    loaded = loaded_of(family)
    loaded.model.set_attn_implementation(attention)
    adapter = loaded.adapter
    samples = load_samples("scenes", "search", limit=3)
    images = loaded.images([sample.image for sample in {sample.image_id: sample for sample in samples}.values()])
    compressed = compressed_by(with_fallbacks(vtc_cls(9, 1), loaded), images, adapter.extra_needs)
    words = ["what is it ?", "where ?", "is there a red square left of the circle ?", "how many ?", "which colour ?"]
    prompts = [[loaded.prompt(word, images.arrangement) for word in words[:length]] for length in (5, 4, 2)]
    prompts = prompts[: len(compressed.visible)]
    turns = [Conversation.from_prompts(some, adapter.placeholders) for some in prompts]
    alone = [Conversation.from_prompts([prompt], adapter.placeholders) for some in prompts for prompt in some]
    owner = [row for row, some in enumerate(prompts) for _ in some]
    expected = answer(adapter, alone, compressed.chosen(owner), True, Decoding(NEW)).tokens
    drafts = [[*tokens[: 1 + row % NEW], 7] for row, tokens in enumerate(expected)] if drafted else []
    passes: list[int] = []
    together = DecoderPasses._step_together
    monkeypatch.setattr(DecoderPasses, "_step_together", lambda *args: passes.append(1) or together(*args))
    found = answer(adapter, turns, compressed, True, Decoding(NEW, drafts))
    assert found.tokens == expected
    assert len(passes) >= 1 + 2 * (not drafted)
    if drafted:
        apart = answer(adapter, alone, compressed.chosen(owner), True, Decoding(NEW, drafts))
        torch.testing.assert_close(found.log_probability, apart.log_probability, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("drafted", [False, True], ids=["without drafts", "with drafts"])
def test_gaps_in_the_cache_push_no_token_out_of_a_sliding_window(drafted):
    model: Any = llava_with("Mistral v0.1 (window)")
    model.config.text_config.sliding_window = 50  # the longest prompt has 36 + 9 tokens, and 5 of an answer follow
    adapter, draw = adapt(model), random.Random(0)
    images = image_inputs("LLaVA-1.5")[0]["pixel_values"][:1].expand(8, -1, -1, -1)
    compressed = Identity().compress(live_images(adapter, images))
    words = [[draw.randint(5, 110) for _ in range(9)] for _ in range(8)]
    turns = [
        Conversation([*text[: 6 * (row % 2)], *[IMAGE] * 36], [text[-(9, 3)[row % 2] :]])
        for row, text in enumerate(words)
    ]
    expected = [answer(adapter, [t], compressed.chosen([0]), True, Decoding(NEW)).tokens[0] for t in turns]
    drafts = [
        [*(9 if token == IMAGE else token for token in tokens[: row % NEW]), 7] for row, tokens in enumerate(expected)
    ]
    drafts = drafts if drafted else []
    assert answer(adapter, turns, compressed, True, Decoding(NEW, drafts)).tokens == expected


@torch.inference_mode()
@pytest.mark.parametrize("compressor", [Identity(), fastv(20, 2)], ids=repr)
def test_an_answer_ends_with_an_end_token_inside_its_draft(asked, compressor, monkeypatch):
    loaded, prompts, samples = asked
    adapter = loaded.adapter
    compressed = compressor.compress(loaded.images([sample.image for sample in samples[:2]]))

    def answers(references=()):
        return answer_each(adapter, prompts[:2], compressed, False, compressor.cuts, Decoding(NEW, references))[
            0
        ].tokens

    free = answers()
    monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", [*adapter.ends, free[0][1]])
    expected = answers()
    assert len(expected[0]) < 2
    assert answers([[*free[0][:2], 7, 8], [*free[1][:3], 7]]) == expected


@torch.inference_mode()
def test_a_complete_answer_that_stays_in_the_batch_gets_no_position_behind_the_limit(asked, monkeypatch):
    loaded, prompts, samples = asked
    llava, prompts = loaded.adapter, sorted(prompts, key=len)
    images = live_images(llava, loaded.image_inputs([samples[0].image])[0]["pixel_values"])
    compressed = Blind().compress(images).chosen([0] * len(prompts))
    alone = [Conversation.from_prompts([prompt], llava.placeholders) for prompt in prompts]
    expected = answer(llava, alone, compressed, True, Decoding(NEW)).tokens
    drafts = [[7 + (tokens[0] == 7), 9] for tokens in expected]
    drafts[-1] = [*expected[-1][: NEW - 1], 9]  # of the longest prompt; its answer is complete after one more token
    positions: list[int] = []
    run = DecoderPasses._run
    monkeypatch.setattr(
        DecoderPasses, "_run", lambda *args, **more: positions.append(int(args[2].max())) or run(*args, **more)
    )
    assert answer(llava, alone, compressed, True, Decoding(NEW, drafts)).tokens == expected
    assert max(positions) == len(prompts[-1]) - images.arrangement.length + NEW - 2  # the last token is not run
