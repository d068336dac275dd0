import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import LlavaForConditionalGeneration

from foveate.compressors import VisionCompressor
from foveate.core.arrangement import Arrangement, Grid
from foveate.data.scenes.bitmaps import CHARACTERS, COLOURS, KINDS
from foveate.data.scenes.moving import FRAMES, make_moving_scene
from foveate.data.scenes.moving_questions import CLIP_QUESTIONS, make_clip_question
from foveate.data.scenes.scene import Role
from foveate.models.loading.load import adapt
from foveate.models.loading.names import folder_of
from foveate.models.runtime.images import GivenImages
from foveate.models.runtime.packing import pack
from foveate.reference.architecture import VOCABULARY
from foveate.scorers import Uniform
from reference_model import clips
from reference_model.clip_dialogues import CLIP_KINDS, ClipDialogues
from reference_model.clip_training import ClipTraining, video_model
from reference_model.dialogues import WORDS, Texts, collate
from reference_model.language_training import LanguagePhase
from reference_model.training import Epochs, fit
from reference_model.vision_training import IGNORE

NAMES = list(VOCABULARY)
TEXTS = Texts(dense=2)


@pytest.fixture(scope="module")
def llava():
    return LlavaForConditionalGeneration.from_pretrained(folder_of("reference"), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def drawn(llava):
    return clips.drawn_clips(llava.model.vision_tower, range(3), 0)


@pytest.fixture
def module(llava):
    return ClipTraining(video_model(llava), (LanguagePhase(1, 80, TEXTS), LanguagePhase(1, None, TEXTS))).eval()


def words(ids):
    return [NAMES[token] for token in ids]


def test_clips_are_drawn_once_and_read_as_they_were_drawn(llava, tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "PART", 1)
    clips.draw(llava.model.vision_tower, 1, 0, tmp_path)
    monkeypatch.setattr(clips, "drawn_clips", None)  # nothing is drawn twice
    clips.draw(llava.model.vision_tower, 1, 0, tmp_path)
    (part,), other = clips.read(1, tmp_path), clips.held_out(tmp_path)
    assert len(part) == len(other) == 1 and not torch.equal(part.features, other.features)
    scene, again = make_moving_scene("train", 0), part.scene(0)
    for kind in CLIP_QUESTIONS:
        one, two = (make_clip_question(kind, each, np.random.default_rng(5)) for each in (scene, again))
        assert (one.text, one.answer) == (two.text, two.answer)


def test_packed_texts_ask_and_tell_what_the_clip_shows(drawn):
    row = ClipDialogues(range(3), [drawn], TEXTS, 0)[1]
    scene = drawn.scene(1)
    target = [words(row["target"][(row["block"] == n) & (row["target"] != IGNORE)]) for n in range(8)]
    for number, kind in enumerate(CLIP_KINDS):
        answer, end = target[number]
        assert end == "</s>"
        asked = words(row["ids"][row["block"] == number])
        if kind == "order":
            assert answer == scene.things[["one", "two", "three", "four", "five", "six"].index(asked[-5 - 1])].name
    listed = [word for word in target[7] if word not in (",", ".")]
    numbers = {3: "three", 4: "four", 5: "five", 6: "six"}
    assert listed == [*(thing.name for thing in scene.things), numbers[len(scene.things)]]
    facts = target[6]
    assert len(facts) == 6 * len((*scene.things, *scene.texts))


def test_labels_name_what_each_patch_shows(drawn):
    row = ClipDialogues(range(3), [drawn], TEXTS, 0)[2]
    scene = drawn.scene(2)
    labels = row["labels"].unflatten(1, (FRAMES, 12, 12))
    named = dict(zip(WORDS, labels, strict=True))
    shown = torch.zeros(FRAMES, 12, 12, dtype=torch.bool)
    for track in (*scene.things, *scene.texts):
        for frame, (row_, column), colour in zip(track.frames, track.places, track.colours, strict=True):
            at = frame, slice(row_, row_ + track.side), slice(column, column + track.side)
            shown[at] = True
            assert (named["colour"][at] == list(COLOURS).index(colour)).all()
            name, of = ("kind", list(KINDS)) if track.role == Role.THING else ("character", list(CHARACTERS))
            assert (named[name][at] == of.index(track.name)).all()
            assert ((named["row"][at] == 1) == (torch.arange(12)[at[1], None] >= 6)).all()
    assert (named["colour"] != IGNORE).equal(shown)


@torch.no_grad()
@pytest.mark.parametrize("repack", [True, False])
def test_packed_questions_get_the_logits_of_each_question_alone(module, drawn, repack):
    module.phase = 1
    batch = collate([ClipDialogues(range(3), [drawn], Texts(), 0)[i] for i in (0, 2)])
    adapter = adapt(module.llava).kind("video")
    video = Arrangement((Grid(12, 12),) * FRAMES, Arrangement.boxes * FRAMES, frames=FRAMES)

    def given(rows):
        return GivenImages(adapter.project(batch["features"][rows].float()), video)

    compressor = VisionCompressor(Uniform(), 40, positions="repacked" if repack else "original")
    kept = compressor.compress(given(slice(0, 2))).decision.compression.origin
    packed, _ = module(batch, kept, repack)
    for row, number in itertools.product(range(2), (0, 3, 5)):
        own = batch["block"][row] == number
        prefix = [VOCABULARY[word] for word in ("<s>", "USER", ":")] + [adapter.image_token] * video.patches
        ids = torch.tensor([[*prefix, *batch["ids"][row][own].tolist()]])
        inputs, _ = pack(adapter, {"input_ids": ids}, compressor.compress(given(slice(row, row + 1))), repack)
        logits = module.llava(**inputs).logits[0, -int(own.sum()) :]
        torch.testing.assert_close(packed[row][own], logits, atol=5e-4, rtol=1e-3)


def test_the_model_starts_as_the_llava_and_a_step_in_each_phase_changes_all_but_the_tower(llava, drawn, tmp_path):
    model = video_model(llava)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    assert all(torch.equal(weights[name][: len(value)], value) for name, value in llava.state_dict().items())
    module = ClipTraining(model, (LanguagePhase(1, 80, TEXTS), LanguagePhase(1, None, Texts())))
    asked = DataLoader(ClipDialogues(range(2), [drawn], Texts(), 0), batch_size=2, collate_fn=collate)

    def training(epoch):
        return DataLoader(ClipDialogues(range(2), [drawn], module.current.texts, 0), batch_size=2, collate_fn=collate)

    fit(module, Epochs(training, asked), tmp_path, epochs=2, clip_gradients=False)
    same = {name for name, value in model.state_dict().items() if torch.equal(value, weights[name])}
    assert same == {name for name in weights if "vision_tower" in name or "image_newline" in name}
