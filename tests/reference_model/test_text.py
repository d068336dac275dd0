"""The companion of the shipped model, and how it is trained. Its measurement stands in its model card."""

import math
from importlib.resources import files
from pathlib import Path
from zipfile import ZipFile

import pandas as pd
import pytest
import torch
from hatchling.builders.wheel import WheelBuilder
from transformers import AutoTokenizer, CLIPModel

from foveate.data.scenes.questions import make_questions
from foveate.data.scenes.scene import make_scene, stream
from foveate.models.backbone.text_encoder import Companion
from foveate.models.loading.companion import load_companion
from foveate.models.loading.load import load
from foveate.reference.architecture import PATCHES, VOCABULARY
from foveate.testing.tiny import save_tiny_llava
from reference_model.companion_card import companion_card, evidence_found
from reference_model.text_training import (
    TextPairs,
    TextTraining,
    export_clip,
    normed_images,
    paired_clip,
    phrase,
    text_tokenizer,
    tower_of,
)
from reference_model.training import EpochsOfScenes, fit
from reference_model.vision_training import normalised
from tests.scripts import ROOT, run
from tests.tiers import extended

REFERENCE = Path(str(files("foveate.reference")))
END = len(VOCABULARY)


@pytest.fixture(scope="module")
def tower(tiny):
    return tower_of(Path(tiny))


@pytest.fixture(scope="module")
def bank(tower, tmp_path_factory):
    return normed_images(tower, 6, tmp_path_factory.mktemp("bank"))


def test_the_shipped_companion_is_an_ordinary_folder_with_the_tower_of_the_shipped_model():
    folder = REFERENCE / "clip"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 5e6
    clip, report = CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert {weight.dtype for weight in clip.parameters()} == {torch.float32}
    ours, theirs = clip.vision_model.state_dict(), tower_of(REFERENCE / "llava").state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert AutoTokenizer.from_pretrained(folder)("the star")["input_ids"] == text_tokenizer()("the star")["input_ids"]


def test_the_wheel_holds_the_companion(tmp_path):
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = [Path(name) for name in ZipFile(wheel).namelist()]
    held = {name.name for name in names if name.is_relative_to("foveate/reference/clip")}
    assert held == {file.name for file in (REFERENCE / "clip").iterdir()}
    assert {"model.safetensors", "tokenizer.json", "README.md"} <= held


def test_similarity_to_the_question_finds_its_evidence_and_the_reverse_order_avoids_it():
    found = evidence_found(load(), "search", limit=300)
    named = found[~found["kind"].isin(["count", "list", "list_colors"])]
    assert named["most_similar"].mean() > 0.85
    assert named["auc"].mean() > 0.95
    assert named["least"].mean() < 0.03
    assert found["most_similar"].mean() > 0.6


def test_the_card_holds_the_measurement():
    card = (REFERENCE / "clip" / "README.md").read_text()
    assert "n = 2,400 questions about 200 images of the `test` split" in card


def test_every_word_of_questions_is_known_and_the_end_has_the_highest_id():
    tokenizer = text_tokenizer()
    for index in range(100):
        for question in make_questions(make_scene("train", index), stream("train", index)):
            ids = tokenizer(question.text).input_ids
            assert VOCABULARY["<unk>"] not in ids, question
            assert (ids[0], ids[-1], max(ids)) == (VOCABULARY["<s>"], END, END)


def test_texts_are_pooled_at_their_end(tower):
    clip = paired_clip(tower).eval()
    ids = text_tokenizer()(["is there any red circle?", "where is the star?"], padding=True, return_tensors="pt")
    read = clip.text_model(input_ids=ids.input_ids, attention_mask=ids.attention_mask)
    last = ids.attention_mask.sum(1) - 1
    assert ids.input_ids[torch.arange(2), last].tolist() == [END, END]
    assert torch.equal(read.pooler_output, read.last_hidden_state[torch.arange(2), last])


def test_normed_images_are_what_the_companion_projects(tower, bank):
    clip = paired_clip(tower).eval()
    pixels = torch.stack([normalised(make_scene("train", index).pixels) for index in range(6)])
    states = tower(pixels, output_hidden_states=True).hidden_states[-2]
    patches = Companion(clip, text_tokenizer()).patches(states[:, 1:])
    ours = clip.visual_projection(bank["states"].float())
    torch.testing.assert_close(ours[:, 1:], patches, atol=5e-3, rtol=5e-3)  # they are kept in half precision
    torch.testing.assert_close(ours[:, 0], clip.get_image_features(pixels).pooler_output, atol=5e-3, rtol=5e-3)


def test_phrases_name_things_of_the_image_and_are_never_repeated():
    texts = []
    for index in range(60):
        scene = make_scene("train", index)
        text = phrase(scene, stream("train", index, 0, 3, index))
        texts.append(text)
        if text[-1] not in "?.":
            named = {" ".join(filter(None, (t.colour, t.kind, t.glyph))) for t in scene.things}
            assert set(text.split(", ")) <= named
    assert 15 < sum(text[-1] in "?." for text in texts) < 45
    assert phrase(scene, stream("train", 59, 0, 3, 59)) == texts[59]


def test_a_pair_is_an_image_with_two_texts(bank):
    pair = TextPairs(range(4, 8), bank)[3]
    assert pair["states"].shape == (1 + PATCHES, 128)
    assert torch.equal(pair["states"], bank["states"][1].float())
    for text in (pair["caption"], pair["phrase"]):
        assert text.shape == (32,)
        assert (text == END).sum() == 1
        assert VOCABULARY["</s>"] not in text


def test_cosines_are_those_of_each_text_with_each_image(tower, bank):
    clip = paired_clip(tower).eval()
    module = TextTraining(5, clip)
    pairs = TextPairs(range(3), bank)
    states, ids = (torch.stack([pairs[i][name] for i in range(3)]) for name in ("states", "phrase"))
    of_image, of_patch = module(states, ids)
    companion = Companion(clip, text_tokenizer())
    texts = companion.embed([row[: row.tolist().index(END) + 1].tolist() for row in ids], truncated=False)[:, 0]
    projected = clip.visual_projection(states)
    for text in range(3):
        for image in range(3):
            expected = torch.cosine_similarity(projected[image], texts[text], dim=1)
            torch.testing.assert_close(of_image[text, image], expected[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(of_patch[text, image], expected[1:], atol=1e-5, rtol=1e-5)


@extended("training")
def test_training_changes_all_but_the_tower(tower, bank, tmp_path):
    torch.manual_seed(0)
    module = TextTraining(60, paired_clip(tower), learning_rate=3e-3)
    before = {name: value.clone() for name, value in module.clip.state_dict().items()}
    pairs = EpochsOfScenes(lambda indices: TextPairs(indices, bank), 360, 6)
    fit(module, pairs, tmp_path / "text", 60, processes=1)
    export_clip(module.clip, tmp_path / "clip")
    after = load_companion(tmp_path / "clip").clip.state_dict()
    for name, value in before.items():
        assert torch.equal(after[name], value) == name.startswith("vision_model."), name
    (log,) = (tmp_path / "text").rglob("metrics.csv")
    assert pd.read_csv(log)["loss/caption"].dropna().iloc[-1] < 0.7 * math.log(6)  # that of guessing which of six


@extended("training")
def test_the_stage_of_the_script_trains_exports_and_continues(tmp_path):
    save_tiny_llava(tmp_path / "llava")
    options = ["--out", str(tmp_path), "--stage", *"text --text-steps 2 --images 8 --batch-size 2".split()]
    done = run("train_reference", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    first = (tmp_path / "clip" / "model.safetensors").read_bytes()
    assert "of the `search` split" in companion_card(tmp_path / "llava", tmp_path / "clip", "search")
    done = run("train_reference", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "clip" / "model.safetensors").read_bytes() == first
