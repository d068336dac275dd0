from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from foveate.compressors import Identity, VisionCompressor
from foveate.core.layers import LayersFrom
from foveate.data.load import load_samples
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.answering import encodings_of, longest_first
from foveate.evaluation.names import REUSABLE
from foveate.evaluation.run import cached_load
from foveate.methods import fastv, prumerge, vtc_cls
from foveate.models.runtime.generation import Conversation, Decoding, answer, likelihood
from foveate.scorers import ClsEnsemble
from foveate.selectors import Mass
from tests.image_files import live_images
from tests.tiers import parametrize

COMPRESSORS = [
    vtc_cls(16, 1),
    VisionCompressor(ClsEnsemble(LayersFrom(3)), 9, positions="original"),
    prumerge(5),
    fastv(20, 2),
]


@pytest.fixture
def config(tiny, tmp_path):
    return EvalConfig(Identity(), model=tiny, limit=44, max_new_tokens=5, out=tmp_path / "shared", reuse=REUSABLE)


def answers(config):
    table = evaluate(config).read()
    return dict(zip(table["sample_id"].to_pylist(), table["prediction"].to_pylist(), strict=True)), torch.tensor(
        table["log_probability"].to_pylist()
    )


@parametrize("compressor", COMPRESSORS, fast=(vtc_cls(16, 1), fastv(20, 2)), ids=repr)
def test_no_reuse_changes_an_answer(config, tmp_path, compressor):
    config = replace(config, compressor=compressor)
    texts, likely = answers(config)
    assert len(set(texts.values())) > 3
    for off in [*[{name} for name in REUSABLE], set(REUSABLE)]:
        reuse = tuple(name for name in REUSABLE if name not in off)
        alone, likely_alone = answers(replace(config, reuse=reuse, out=tmp_path / "-".join(sorted(off))))
        assert {i: (texts[i], alone[i]) for i in texts if texts[i] != alone[i]} == {}, off
        torch.testing.assert_close(likely, likely_alone, atol=1e-4, rtol=1e-4)


def runs_of(module):
    """A list that gets the shape of what the module is given, call by call."""
    shapes = []
    module.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append((args or (*kwargs.values(),))[0].shape), with_kwargs=True
    )
    return shapes


@pytest.fixture
def loaded(config):
    cached_load.cache_clear()  # whose hooks end with it
    yield cached_load(config.model, config.device, config.dtype)
    cached_load.cache_clear()


def test_the_tower_runs_once_for_all_evaluations_or_for_each(config, loaded):
    shapes = runs_of(loaded.model.model.vision_tower.encoder.layers[0])
    for compressor in (vtc_cls(16, 1), vtc_cls(9, 1)):
        evaluate(replace(config, compressor=compressor))
    once = len(shapes)
    assert once
    evaluate(replace(config, compressor=vtc_cls(7, 1), reuse=tuple(set(REUSABLE) - {"encodings"})))
    assert len(shapes) > once


@torch.inference_mode()
def test_text_before_images_runs_once_and_padding_stands_behind_it(config, loaded):
    llava, samples = loaded.adapter, load_samples("scenes", "search", limit=60)
    images = list({sample.image_id: sample for sample in samples}.values())
    prompts = [loaded.prompt(sample.question) for sample in images]
    system = [5, 6, 7, 8, 9, 10, 11, 12]
    turns = [Conversation.from_prompts([[*system, *prompt]], llava.placeholders) for prompt in prompts]
    pixels = loaded.image_inputs([sample.image for sample in images])[0]["pixel_values"]
    ragged = VisionCompressor(ClsEnsemble((0, 5)), None, Mass(0.6)).compress(live_images(llava, pixels))
    assert len(set(ragged.decision.compression.count.tolist())) > 1
    references = [loaded.reference(sample.question, sample.references[0]) for sample in images]
    shapes = runs_of(llava.decoder.blocks[0])
    for repack in (True, False):
        of = (llava, turns, ragged, repack)
        alone = answer(*of, Decoding(5), share=False)
        start = len(shapes)
        assert answer(*of, Decoding(5)).tokens == alone.tokens
        assert shapes[start][:2] == (1, len(system) + prompts[0].index(llava.image_token))
        torch.testing.assert_close(
            likelihood(*of, references), likelihood(*of, references, share=False), atol=1e-4, rtol=1e-4
        )


def test_long_prompts_come_first_and_images_stay_whole(config, loaded):
    samples = load_samples("scenes", "test", limit=66)
    data = (replace(config, limit=66), loaded, tuple(samples), "hash")
    ordered = longest_first(samples, encodings_of(*data))
    assert sorted(sample.id for sample in ordered) == sorted(sample.id for sample in samples)
    images = [sample.image_id for sample in ordered]
    assert len(list(dict.fromkeys(images))) == sum(a != b for a, b in pairwise(images)) + 1
    longest = [max(len(s.question) for s in ordered if s.image_id == image) for image in dict.fromkeys(images)]
    assert longest == sorted(longest, reverse=True) and longest[0] > longest[-1]
