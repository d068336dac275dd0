"""Kept choices, keys and values: later questions get the answers of a fresh start, and less is computed."""

from functools import cache

import pytest
import torch

from foveate import PrefixCache
from foveate.compressors import Identity
from foveate.core.errors import FoveateError, OptionError, UnsupportedNeed
from foveate.data.load import load_samples
from foveate.methods import cdpruner, divprune, fastv, mmtok, pool, vtc_cls
from foveate.methods.fitting import with_fallbacks
from foveate.models.runtime.prefix_cache import Prefixes
from tests.tiers import parametrize

FAMILIES = (
    *("reference", "LLaVA-1.5", "LLaVA-NeXT", "LLaVA-OneVision", "InternVL", "Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-MoE"),
    *("Gemma 3", "Idefics3", "SmolVLM", "GLM-4.1V", "GLM-4.5V", "GLM-4.6V"),
)
NEW = 5
OPTIONS = {"max_new_tokens": NEW, "do_sample": False}


@cache
def images():
    found = {sample.image_id: sample.image for sample in load_samples("scenes", "test", 28)}
    return [image.crop((36, 36, 60, 60)) for image in found.values()]


def turn(role, *content):
    """A turn whose content is texts, and numbers of images."""
    return role, content


def inputs_of(loaded, *turns):
    size = 96 if loaded.name == "reference" else 24
    numbers = [part for _, content in turns for part in content if isinstance(part, int)]
    said = [
        {
            "role": role,
            "content": [
                {"type": loaded.adapter.modality} if isinstance(part, int) else {"type": "text", "text": part}
                for part in content
            ],
        }
        for role, content in turns
    ]
    return loaded.inputs([loaded.conversation(said)], [[images()[i].resize((size, size)) for i in numbers]])


CONVERSATION = (
    (turn("user", 0, "what color is the ring ?"),),
    (turn("user", 0, "what color is the ring ?"), turn("assistant", "red"), turn("user", "where is it ?")),
    (turn("user", 0, "what color is the star ?"),),  # about the same image, not of this conversation
    (turn("user", 1, "what color is the star ?"),),
    (turn("user", 0, "where is the star ?"),),
    (turn("user", 0, 1, "where is the star ?"),),
    (turn("user", 0, 1, "what color is the star ?"),),
    (turn("user", 1, 0, "what color is the star ?"),),
)
SHARED = (False, True, True, False, True, False, True, False)


class Counted:
    """Counts images that the tower encodes, and tokens that the language model reads."""

    def __init__(self, loaded, monkeypatch):
        self.images, self.tokens = 0, 0
        encode = type(loaded.adapter).encode

        def encoded(adapter, images, arrangement, needs=()):
            sources, values = encode(adapter, images, arrangement, needs)
            self.images += len(sources)
            return sources, values

        monkeypatch.setattr(type(loaded.adapter), "encode", encoded)
        block = loaded.adapter.decoder.blocks[0]
        self.hook = block.register_forward_pre_hook(lambda _, args: self.add(args[0]))

    def add(self, states):
        self.tokens += states.shape[1]

    def taken(self):
        found = self.images, self.tokens
        self.images = self.tokens = 0
        return found


@pytest.fixture
def counted(monkeypatch):
    hooks = []

    def count(loaded):
        hooks.append(Counted(loaded, monkeypatch))
        return hooks[-1]

    yield count
    for one in hooks:
        one.hook.remove()


def answers(loaded, compressor, prompts, prefixes=None, **options):
    """For each prompt its output, the kept patches and the tokens per block, each from a `with` of its own."""
    found = []
    for prompt in prompts:
        with compressor.attached(loaded, prefixes) as result:
            output = loaded.model.generate(**prompt, **{**OPTIONS, **options})
        tokens = [block.tolist() for block in result.tokens.per_block]
        found.append((output.tolist(), [kept.tolist() for kept in result.kept], tokens))
    return found


@torch.no_grad()
@parametrize("family", FAMILIES, fast=("reference", "LLaVA-NeXT", "Qwen2.5-VL"))
@pytest.mark.guards("kept keys and values belong to the prompt: the images are left out of the keys of `PrefixCache`")
def test_later_prompts_get_the_answers_of_a_fresh_start(family, loaded_of, counted):
    loaded = loaded_of(family)
    prompts = [inputs_of(loaded, *turns) for turns in CONVERSATION]
    for plain in (Identity(), vtc_cls(0.3, 1), pool(0.3)):
        compressor = with_fallbacks(plain, loaded)
        fresh = answers(loaded, compressor, prompts)
        count, prefixes, reused = counted(loaded), PrefixCache(), []
        kept = []
        for prompt in prompts:
            kept += answers(loaded, compressor, [prompt], prefixes)
            reused.append((prefixes.reused, *count.taken()))
        assert kept == fresh
        for (common, encoded, read), shared, prompt in zip(reused, SHARED, prompts, strict=True):
            shared = shared and loaded.adapter.decoder.window is None  # a sliding window keeps no prompt
            length = prompt["input_ids"].shape[1]
            last = int((prompt["input_ids"][0] == loaded.adapter.image_token).nonzero()[-1])
            assert (last < common < length) == shared and (common == 0) != shared
            assert shared <= (encoded == 0)
            assert not shared or read <= length - common + NEW - 1
        # Two images, each once; LLaVA-OneVision does not cut those of a prompt with several into tiles.
        assert sum(encoded for _, encoded, _ in reused) == (4 if family == "LLaVA-OneVision" else 2)


@torch.no_grad()
def test_a_method_that_reads_questions_chooses_for_each_unless_the_first_choice_is_kept(loaded_of, counted):
    loaded = loaded_of("reference")
    prompts = [inputs_of(loaded, turn("user", 0, s.question)) for s in load_samples("scenes", "test", 7)]
    compressor = mmtok(20)
    fresh = answers(loaded, compressor, prompts)
    assert len({str(kept) for _, kept, _ in fresh}) > 1
    prefixes, count = PrefixCache(), counted(loaded)
    assert answers(loaded, compressor, prompts * 2, prefixes) == fresh * 2
    assert count.taken()[0] == len(prompts) and prefixes.reused == 0
    first = PrefixCache(first_choice=True)
    followed = answers(loaded, compressor, prompts, first)
    assert [kept for _, kept, _ in followed] == [fresh[0][1]] * len(prompts)
    assert followed[0] == fresh[0] and first.reused > 144


@torch.no_grad()
def test_methods_do_not_share_what_is_kept_and_cuts_keep_nothing(loaded_of):
    loaded = loaded_of("reference")
    prompts = [inputs_of(loaded, turn("user", 0, text)) for text in ("what color is it ?", "where is it ?")]
    prefixes = PrefixCache()
    for compressor in (vtc_cls(20, 1), vtc_cls(30, 1), divprune(20), fastv(20, 2), vtc_cls(20, 2)):
        assert answers(loaded, compressor, prompts, prefixes) == answers(loaded, compressor, prompts)
    assert len(prefixes.prompts) == 4


@torch.no_grad()
@pytest.mark.parametrize(
    "options", [{"num_beams": 2}, {"use_cache": False}, {"cache_implementation": "static"}, {"num_return_sequences": 1}]
)
def test_other_decoding_keeps_images_only_and_answers_stay(loaded_of, options):
    loaded = loaded_of("reference")
    prompts = [inputs_of(loaded, turn("user", 0, text)) for text in ("what color is it ?", "where is it ?")]
    prefixes = PrefixCache()
    fresh = answers(loaded, vtc_cls(20, 1), prompts, **options)
    assert answers(loaded, vtc_cls(20, 1), prompts, prefixes, **options) == fresh
    assert len(prefixes.images) == 1 and len(prefixes.prompts) == ("num_return_sequences" in options)


@torch.no_grad()
def test_a_batch_takes_each_kept_image_and_compresses_the_others(loaded_of, counted):
    loaded = loaded_of("LLaVA-NeXT")
    compressor, prefixes = vtc_cls(0.3, 1), PrefixCache()
    answers(loaded, compressor, [inputs_of(loaded, turn("user", 1, "where is it ?"))], prefixes)
    texts = [loaded.chat_prompt([None, text]) for text in ("where is it ?", "what ?", "what color is the star ?")]
    batch = loaded.inputs(texts, [[images()[i].resize((24, 24 * (1 + i % 2)))] for i in (0, 1, 2)])
    fresh = answers(loaded, compressor, [batch])
    count = counted(loaded)
    assert answers(loaded, compressor, [batch, batch], prefixes) == fresh * 2
    assert count.taken()[0] == 3


@torch.no_grad()
def test_a_call_that_fails_leaves_nothing_behind(loaded_of):
    loaded = loaded_of("reference")
    prompts = [inputs_of(loaded, turn("user", 0, text)) for text in ("what color is it ?", "where is it ?")]
    compressor, prefixes = vtc_cls(20, 1), PrefixCache()
    answers(loaded, compressor, prompts[:1], prefixes)

    def broken(ids, scores):
        raise InterruptedError

    with pytest.raises(InterruptedError), compressor.attached(loaded, prefixes):
        loaded.model.generate(**prompts[1], **OPTIONS, logits_processor=[broken])
    assert not prefixes.prompts
    assert answers(loaded, compressor, prompts[1:], prefixes) == answers(loaded, compressor, prompts[1:])


@torch.no_grad()
def test_the_oldest_goes_and_clear_removes_all(loaded_of, counted):
    loaded = loaded_of("reference")
    prompts = [inputs_of(loaded, turn("user", number, "where is it ?")) for number in (0, 1, 0, 2, 1, 0)]
    prefixes, count = PrefixCache(2), counted(loaded)
    answers(loaded, vtc_cls(20, 1), prompts, prefixes)
    assert count.taken()[0] == 5  # the third alone is known
    assert len(prefixes.images) == len(prefixes.prompts) == 2
    prefixes.clear()
    answers(loaded, vtc_cls(20, 1), prompts[-1:], prefixes)
    assert count.taken()[0] == 1
    with pytest.raises(OptionError, match="entries=0"):
        PrefixCache(0)


def test_a_question_that_no_text_encoder_can_read_is_still_refused(loaded_of):
    loaded = loaded_of("LLaVA-1.5")
    with pytest.raises(UnsupportedNeed, match="companion"), cdpruner(4).attached(loaded, PrefixCache()):
        loaded.model.generate(**inputs_of(loaded, turn("user", 0, "where is it ?")), **OPTIONS)


@torch.no_grad()
def test_calls_that_are_refused_are_refused_with_the_same_words(loaded_of):
    loaded, prefixes = loaded_of("LLaVA-1.5"), PrefixCache()
    prompt = inputs_of(loaded, turn("user", 0, "where is it ?"))
    embeddings = loaded.model.get_input_embeddings()(prompt["input_ids"])
    answers(loaded, vtc_cls(0.3, 1), [prompt], prefixes)
    text = {"input_ids": prompt["input_ids"]}
    for wrong in (text, {"inputs_embeds": embeddings}, {**prompt, "vision_feature_layer": 1}):
        messages = []
        for kept in (None, prefixes, prefixes):
            with pytest.raises((FoveateError, ValueError)) as caught, vtc_cls(0.3, 1).attached(loaded, kept):
                loaded.model.generate(**wrong, **OPTIONS)
            messages.append(str(caught.value))
        assert len(set(messages)) == 1


@torch.no_grad()
def test_states_of_the_whole_prompt_are_those_of_a_fresh_start(loaded_of):
    loaded, prefixes = loaded_of("LLaVA-1.5"), PrefixCache()
    options = {**OPTIONS, "output_hidden_states": True, "return_dict_in_generate": True}
    prompts = [inputs_of(loaded, turn("user", 0, text)) for text in ("what color is it ?", "where is it ?")]
    states = []
    for kept in (None, prefixes):
        for prompt in prompts:
            with vtc_cls(0.3, 1).attached(loaded, kept):
                states.append(loaded.model.generate(**prompt, **options).hidden_states[0][-1])
    assert torch.equal(states[0], states[2]) and torch.equal(states[1], states[3])


def test_passes_with_gradients_keep_nothing(loaded_of):
    loaded, prefixes = loaded_of("LLaVA-1.5"), PrefixCache()
    prompt = inputs_of(loaded, turn("user", 0, "where is it ?"))
    weight = loaded.model.model.multi_modal_projector.linear_1.weight
    gradients = []
    with vtc_cls(0.3, 1).attached(loaded, prefixes):
        for _ in range(2):  # a kept graph could be used once
            weight.grad = None
            loaded.model(**prompt).logits.sum().backward()
            gradients.append(weight.grad.clone())
    weight.grad = None
    assert not prefixes.images and gradients[0].abs().sum() > 0 and torch.equal(*gradients)


@torch.no_grad()
def test_a_video_beside_the_images_keeps_no_prompt(loaded_of):
    loaded = loaded_of("LLaVA-OneVision")
    used = Prefixes(PrefixCache(), loaded.adapter, vtc_cls(0.3, 1), False)
    prompt = inputs_of(loaded, turn("user", 0, "where is it ?"))
    assert used.keeps_prompt(prompt)
    assert not used.keeps_prompt({**prompt, "pixel_values_videos": torch.zeros(1, 2, 3, 24, 24)})
    assert not used.keeps_prompt({**prompt, "attention_mask": torch.zeros_like(prompt["input_ids"])})
