"""Filters of pixels keep the same patches in evaluations as in stock `generate`, stored or computed anew."""

from functools import cache

import pytest
import torch

from foveate.core.needs import PIXEL_STATISTICS
from foveate.data.load import load_samples
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.module import Answering
from foveate.methods import METHODS
from foveate.models.loading.load import load
from foveate.models.runtime.images import Texts
from foveate.testing.checkpoints import save_family
from tests.evaluation.test_family_evaluation import NEW, cropped, live
from tests.tiers import parametrize

NAMES = tuple(need.name for need in PIXEL_STATISTICS)


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    def loaded(name):
        return load() if name == "reference" else load(str(save_family(name, tmp_path_factory.mktemp("family"))))

    return cache(loaded)


@torch.no_grad()
@parametrize("model", ["reference", "LLaVA-NeXT", "LLaVA-OneVision", "Qwen2.5-VL"], fast=("reference", "Qwen2.5-VL"))
def test_evaluations_keep_what_generate_keeps(model, model_of, tmp_path):
    loaded = model_of(model)
    sizes = [(96, 96), (30, 70), (96, 40), (30, 70)] if model != "reference" else [(96, 96)] * 4
    some = load_samples("scenes", "test", 24)[::7]
    samples = [cropped(sample, *size) for sample, size in zip(some, sizes, strict=True)]
    encodings = Encodings.of(loaded, {s.image_id: s.image for s in samples}, tmp_path / "encodings")
    chosen = []
    for name in NAMES:
        compressor = METHODS[name](0.2)
        encodings.replayed = True
        stored = Answering(encodings, compressor, NEW).predict_step(samples)
        encodings.replayed = False
        anew = Answering(encodings, compressor, NEW).predict_step(samples)
        for sample, one, other in zip(samples, stored, anew, strict=True):
            text, kept = live(loaded, compressor, sample)
            assert one.kept == other.kept == kept
            assert one.prediction == other.prediction == text
        chosen.append([record.kept for record in stored])
    assert chosen[0] != chosen[1] != chosen[2] != chosen[0]


@torch.no_grad()
def test_stored_statistics_need_no_image(model_of, tmp_path):
    """So that a trial of an ablation opens none."""
    loaded = model_of("reference")
    images = {s.image_id: s.image for s in load_samples("scenes", "test", 24)}
    ids = list(images)
    fresh = loaded.images([images[i] for i in ids]).encode(PIXEL_STATISTICS)[1]
    Encodings.of(loaded, images, tmp_path / "encodings")
    unread = dict.fromkeys(ids)  # known by name, and never looked at
    stored = Encodings.of(loaded, unread, tmp_path / "encodings").batch(ids, torch.empty(0), Texts([], [], None))
    found = stored.encode(PIXEL_STATISTICS)[1]
    for need in PIXEL_STATISTICS:
        assert torch.equal(found[need], fresh[need])
        assert found[need].std(1).min() > 0
