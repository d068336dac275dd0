"""The shipped models: standard checkpoints that use the image. Their model cards have the full measurement."""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaForConditionalGeneration,
    LlavaNextVideoForConditionalGeneration,
)

from foveate.analysis.records import read_records
from foveate.compressors import Blind, Identity, VisionCompressor
from foveate.data.names import CLIPS
from foveate.data.scenes.moving_questions import CLIP_QUESTIONS
from foveate.evaluation import EvalConfig, evaluate
from foveate.models.loading.load import load
from foveate.models.loading.names import REFERENCE_VIDEO, REFERENCES, SHIPPED, folder_of
from foveate.scorers import Uniform
from tests.tiers import extended

FOLDER = Path(str(files("foveate.reference")))
ALL = pytest.mark.parametrize("name", REFERENCES)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> EvalConfig:
    return EvalConfig(Identity(), split="search", limit=560, out=tmp_path_factory.mktemp("runs"))


def scores(config: EvalConfig, **change):
    folder = evaluate(replace(config, **change)).folder
    return read_records(config.out, folder.name)


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_all_models_together_have_at_most_31_megabytes():
    assert size(FOLDER) <= 31e6


@ALL
def test_the_checkpoints_are_standard_folders_of_at_most_15_megabytes(name):
    llava, clip = Path(folder_of(name)), Path(folder_of(name, "clip"))
    assert size(llava) + size(clip) <= 15e6
    stock = AutoModelForImageTextToText.from_pretrained(llava)
    assert type(stock) is LlavaForConditionalGeneration
    assert AutoProcessor.from_pretrained(llava).chat_template
    ours = load(name)
    assert ours.identity == load(llava, companion=name).identity != load(llava).identity
    assert all(torch.equal(value, stock.state_dict()[key]) for key, value in ours.model.state_dict().items())
    assert next(ours.model.parameters()).dtype == torch.float32
    assert ours.adapter.tower.feature_layer == ours.adapter.tower.depth - 2
    tower = ours.model.model.vision_tower.state_dict()
    own = ours.companion.clip.vision_model.state_dict()
    assert all(torch.equal(own[key.removeprefix("vision_model.")], value) for key, value in tower.items())


def test_the_models_differ():
    assert len({load(name).identity for name in SHIPPED}) == len(SHIPPED)


def test_the_model_for_videos_is_a_standard_checkpoint_with_the_tower_of_reference():
    stock = AutoModelForImageTextToText.from_pretrained(folder_of(REFERENCE_VIDEO))
    assert type(stock) is LlavaNextVideoForConditionalGeneration
    ours = load(REFERENCE_VIDEO)
    assert all(torch.equal(value, stock.state_dict()[key]) for key, value in ours.model.state_dict().items())
    tower = ours.model.model.vision_tower.state_dict()
    assert all(torch.equal(tower[k], v) for k, v in load().model.model.vision_tower.state_dict().items())
    assert folder_of(REFERENCE_VIDEO, "clip") == folder_of("reference", "clip")


def test_the_model_for_videos_answers_every_kind_of_question_about_clips_and_needs_the_video(config):
    asked = {"model": REFERENCE_VIDEO, "data": CLIPS, "limit": 120}
    whole, blind = (scores(config, compressor=one, **asked) for one in (Identity(), Blind()))
    assert whole["score"].mean() >= 0.7
    gain = whole.groupby("kind")["score"].mean() - blind.groupby("kind")["score"].mean()
    assert set(gain.index) == set(CLIP_QUESTIONS) and (gain >= 0.15).all()


@ALL
def test_the_model_answers_every_kind_of_question_and_needs_the_image(config, name):
    whole, blind = (scores(config, model=name, compressor=one) for one in (Identity(), Blind()))
    assert whole["score"].mean() >= 0.85
    gain = whole.groupby("kind")["score"].mean() - blind.groupby("kind")["score"].mean()
    assert (whole.groupby("kind")["score"].mean() >= 0.65).all()  # 40 questions each: 75 % is measured on all of `test`
    assert (gain >= 0.15).all()


def test_accuracy_hardly_depends_on_the_position_ids(config):
    compressor = VisionCompressor(Uniform(), 36)
    repacked = scores(config, compressor=compressor)["score"].mean()
    original = scores(config, compressor=replace(compressor, positions="original"))["score"].mean()
    assert abs(repacked - original) < 0.04


@extended("every")
def test_batch_size_and_reuse_change_no_answer(config):
    for compressor in (Identity(), VisionCompressor(Uniform(), 16)):
        many = scores(config, compressor=compressor, limit=240)
        one = scores(replace(config, out=config.out / "one"), compressor=compressor, limit=240, batch_size=1)
        flips = many.loc[many["prediction"] != one["prediction"], ["sample_id", "prediction"]]
        assert flips.empty, flips


@ALL
def test_the_model_cards_hold_the_measurement(name):
    seed = REFERENCES.index(name)
    card, clip = (Path(folder_of(name, part), "README.md").read_text() for part in ("llava", "clip"))
    assert f"(seed {seed})" in card and f"(seed {seed})" in clip
    assert "n = 1,400 questions about 200 images" in card and "n = 1,400 questions about 200 images" in clip
    assert "## Conditions of acceptance" in card
