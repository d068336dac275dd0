import itertools

import pytest
import torch
from transformers import CLIPModel

from foveate.compressors import VisionCompressor
from foveate.core.arrangement import Arrangement, Grid
from foveate.data.scenes.questions import QUESTION_KINDS, make_questions
from foveate.data.scenes.scene import COLOURS, GLYPHS, KINDS, SIGN, make_scene, stream
from foveate.models.loading.load import adapt, load
from foveate.models.runtime.images import GivenImages
from foveate.models.runtime.packing import pack
from foveate.reference.architecture import VOCABULARY, clip_config, make_processor, make_tokenizer
from foveate.scorers import Uniform
from reference_model.language_training import (
    LanguageTraining,
    SceneDialogues,
    _some_of_everything,
    _token_weight,
    collate,
    encoded_images,
)
from reference_model.vision_training import SceneImages, caption, image_attributes, normalised, patch_labels
from tests.scripts import run
from tests.tiers import extended

GRID = Grid(12, 12)


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return CLIPModel(clip_config()).eval()


@pytest.fixture(scope="module")
def bank(clip, tmp_path_factory):
    return encoded_images(clip, 6, tmp_path_factory.mktemp("bank"))


def test_every_word_of_questions_and_answers_is_known():
    tokenizer = make_tokenizer()
    unknown = VOCABULARY["<unk>"]
    for index in range(300):
        for question in make_questions(make_scene("train", index), stream("train", index)):
            ids = tokenizer(f"{question.text} {question.answer}", add_special_tokens=False).input_ids
            assert unknown not in ids, question
            assert tokenizer.decode(ids).replace(" ", "") == f"{question.text}{question.answer}".replace(" ", "")


def test_training_images_are_what_the_image_processor_makes_of_them():
    scene = make_scene("train", 3)
    expected = make_processor().image_processor(scene.pixels, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(normalised(scene.pixels), expected, atol=1e-5, rtol=1e-5)


def test_patch_labels_name_the_thing_that_covers_most_of_a_patch():
    scene = make_scene("train", 5)
    colour, kind, glyph = patch_labels(scene)
    for patch, (row, column) in enumerate(itertools.product(range(12), range(12))):
        window = scene.owner[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        counts = [(window == thing).sum() for thing in range(len(scene.things))]
        if max(counts) < 10:
            assert (colour[patch], kind[patch], glyph[patch]) == (len(COLOURS), len(KINDS) + 1, -100)
            continue
        thing = scene.things[counts.index(max(counts))]
        assert list(COLOURS)[colour[patch]] == thing.colour
        assert (*KINDS, SIGN)[kind[patch]] == thing.kind
        assert glyph[patch] == (list(GLYPHS).index(thing.glyph) if thing.glyph else -100)


def test_attributes_and_captions_name_every_thing():
    scene = make_scene("train", 8)
    assert image_attributes(scene).sum() == 2 * len(scene.things) + 1
    ids = caption(scene, stream("train", 8)).tolist()
    words = [word for word, index in VOCABULARY.items() if index in ids]
    assert {thing.colour for thing in scene.things} | {thing.kind for thing in scene.things} <= set(words)
    assert SceneImages(range(8, 9))[0]["attributes"].equal(image_attributes(scene))


def projected(adapter, features):
    return GivenImages(adapter.project(features), Arrangement((GRID,)))


@torch.no_grad()
@pytest.mark.parametrize("repack", [True, False])
def test_packed_questions_get_the_logits_of_each_question_alone(clip, bank, repack):
    module = LanguageTraining(10, clip).eval()
    rows = [SceneDialogues(range(6), bank)[i] for i in (1, 4)]
    batch = collate(rows)
    compressor = VisionCompressor(Uniform(), 20, positions="repacked" if repack else "original")
    adapter = adapt(module.llava)
    compressed = compressor.compress(projected(adapter, batch["features"]))
    packed, _ = module(batch, compressed.decision.compression.origin, repack)

    for row, number in itertools.product(range(2), range(len(QUESTION_KINDS))):
        own = batch["block"][row] == number
        prefix = [VOCABULARY[word] for word in ("<s>", "USER", ":")] + [adapter.image_token] * 144
        ids = torch.tensor([[*prefix, *batch["ids"][row][own].tolist()]])
        alone = compressor.compress(projected(adapter, batch["features"][row : row + 1]))
        inputs, _ = pack(adapter, {"input_ids": ids}, alone, repack)
        logits = module.llava(**inputs).logits[0, -int(own.sum()) :]
        torch.testing.assert_close(packed[row][own], logits, atol=2e-4, rtol=1e-3)


def test_targets_are_the_answers_and_each_question_weighs_the_same(bank):
    row = SceneDialogues(range(6), bank)[2]
    scene = make_scene("train", 2)
    questions = make_questions(scene, stream("train", 2, 0, 2, 2))
    tokenizer = make_tokenizer()
    for number, question in enumerate(questions):
        target = row["target"][row["block"] == number]
        answer = tokenizer(question.answer, add_special_tokens=False).input_ids
        assert target[target != -100].tolist() == [*answer, VOCABULARY["</s>"]]
    weight = _token_weight(row["target"][None], row["block"][None])[0]
    total = {kind: weight[row["block"] == number].sum().item() for number, kind in enumerate(QUESTION_KINDS)}
    assert total.pop("multiple_choice") == pytest.approx(2 * total["color"])
    assert all(value == pytest.approx(1.0) for value in total.values())


def test_the_curriculum_shows_some_of_every_thing(bank):
    kept = _some_of_everything(bank["cover"].float(), 12, 2)
    assert (kept.diff(dim=1) > 0).all()
    for row, cover in zip(kept, bank["cover"], strict=True):
        for thing in cover:
            if thing.max() >= 18:
                assert thing[row].max() > 0


STEPS = "--vision-steps 2 --places-steps 2 --language-steps 3 --text-steps 2 --images 8 --batch-size 2".split()


def trained(folder, stage, processes=1):
    options = ("--out", str(folder), *STEPS, "--card-questions", "120", "--processes", str(processes), "--stage", stage)
    done = run("train_reference", *options, folder=folder)
    assert done.returncode == 0, done.stderr


def test_the_script_trains_the_first_stage(tmp_path):
    trained(tmp_path, "vision")
    assert list(tmp_path.rglob("*.ckpt"))


@extended("training")
@pytest.mark.parametrize("processes", [1, 2])
def test_the_script_trains_exports_describes_and_continues(tmp_path, processes):
    stages = ["all"] if processes == 1 else ["vision", "places", "language"]
    for stage in stages:
        trained(tmp_path, stage, processes)
    first = (tmp_path / "llava" / "model.safetensors").read_bytes()
    assert load(tmp_path / "llava").adapter.tower.grid.patches == 144
    if processes == 1:
        assert "| all | 120 |" in (tmp_path / "llava" / "README.md").read_text()
    trained(tmp_path, "language", processes)
    assert (tmp_path / "llava" / "model.safetensors").read_bytes() == first
