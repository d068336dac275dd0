"""Evaluations of families that cut images up or take them as they are: nothing but the question changes an answer."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from foveate.compressors import Identity
from foveate.data.load import load_samples
from foveate.data.sample import InMemoryImage, Masks
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.module import Answering
from foveate.methods import fastv, vtc_cls
from foveate.methods.fitting import with_fallbacks
from foveate.models.loading.load import load
from foveate.testing.checkpoints import save_family
from tests.tiers import parametrize

NEW = 4
COMPRESSORS = {"identity": Identity(), "vtc_cls": vtc_cls(0.3, 1), "fastv": fastv(0.3, 2)}
EVERY = parametrize("family", ["LLaVA-NeXT", "Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-MoE", "Idefics3"])


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    return cache(lambda family: str(save_family(family, tmp_path_factory.mktemp("family"))))


def answers(config):
    table = evaluate(config).read()
    return dict(zip(table["sample_id"].to_pylist(), table["prediction"].to_pylist(), strict=True))


def live(loaded, compressor, sample):
    """The answer of stock `generate` with the compressor attached, to one question."""
    images, (arrangement,) = loaded.image_inputs([sample.image])
    ids = torch.tensor([loaded.prompt(sample.question, arrangement)])
    with compressor.attached(loaded) as run:
        output = loaded.model.generate(input_ids=ids, **images, max_new_tokens=NEW, do_sample=False)
    return loaded.text(output[:, ids.shape[1] :].tolist())[0], run.kept[0].tolist()


@torch.no_grad()
@EVERY
@parametrize("name", COMPRESSORS, fast=("vtc_cls",))
def test_batches_and_cached_encodings_never_change_an_answer(family, name, folder_of, tmp_path):
    loaded = load(folder_of(family))
    compressor = with_fallbacks(COMPRESSORS[name], loaded)
    config = EvalConfig(compressor, folder_of(family), limit=12, max_new_tokens=NEW, batch_size=4, out=tmp_path)
    many = answers(config)
    assert len(many) == 12 and len(set(many.values())) > 1
    assert answers(replace(config, batch_size=1, out=tmp_path / "one")) == many
    alone = {s.id: live(loaded, compressor, s)[0] for s in load_samples("scenes", "test", 12)}
    assert alone == many


def cropped(sample, width, height):
    """A question about a part of its image, which is an image of its own."""
    image, evidence = sample.image.crop((0, 0, width, height)), sample.evidence[:, :height, :width]
    name = f"{sample.image_id}/{width}x{height}"
    return replace(sample, sources=(InMemoryImage(image),), things=Masks(evidence), image_id=name)


@torch.no_grad()
@EVERY
@parametrize("name", COMPRESSORS, fast=("vtc_cls",))
def test_images_of_different_shapes_share_a_batch(family, name, folder_of, tmp_path):
    loaded = load(folder_of(family))
    compressor = with_fallbacks(COMPRESSORS[name], loaded)
    some = load_samples("scenes", "test", 36)[::7]
    sizes = [(96, 96), (30, 70), (96, 40), (30, 70), (48, 48), (96, 96)]
    samples = [cropped(sample, *size) for sample, size in zip(some, sizes, strict=True)]
    encodings = Encodings.of(loaded, {s.image_id: s.image for s in samples}, tmp_path / "encodings")
    assert len({encodings.arrangements[s.image_id] for s in samples}) > 2
    records = Answering(encodings, compressor, NEW).predict_step(samples)
    for sample, record in zip(samples, records, strict=True):
        text, kept = live(loaded, compressor, sample)
        assert (record.prediction, record.kept) == (text, kept)
        again = Answering(encodings, compressor, NEW).predict_step([sample])[0]
        assert (again.prediction, again.kept, again.tokens_per_block, again.evidence_recall) == (
            record.prediction,
            record.kept,
            record.tokens_per_block,
            pytest.approx(record.evidence_recall, nan_ok=True),
        )
