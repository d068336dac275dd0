import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import CLIPModel

from foveate.compressors import VisionCompressor
from foveate.core.arrangement import Arrangement, Grid
from foveate.data.scenes.bitmaps import CHARACTERS, COLOURS, KINDS
from foveate.data.scenes.questions import QUESTION_KINDS, make_questions
from foveate.data.scenes.scene import Role, make_scene, stream
from foveate.models.loading.load import adapt, load
from foveate.models.runtime.images import GivenImages
from foveate.models.runtime.packing import pack
from foveate.reference.architecture import VOCABULARY, clip_config, make_processor, make_text_tokenizer, make_tokenizer
from foveate.scorers import Uniform
from reference_model.dialogues import KIND_NAMES, SceneDialogues, Texts, collate, encoded
from reference_model.images import held_out_images, normalised, training_images
from reference_model.language_training import (
    LANGUAGE_PHASES,
    LanguagePhase,
    LanguageTraining,
    _token_weight,
    relevant_first,
    right_answers,
    untrained_llava,
)
from reference_model.probes import dense_texts
from reference_model.training import Epochs, fit
from reference_model.vision_training import (
    IGNORE,
    VISION_PHASES,
    CaptionedImages,
    VisionTraining,
    captions,
    kept_patches,
    patch_labels,
    phase_of,
    phrases,
)
from tests.scripts import run
from tests.tiers import extended

GRID = Grid(12, 12)
WORDS = list(VOCABULARY)


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return CLIPModel(clip_config()).eval()


@pytest.fixture(scope="module")
def images():
    return held_out_images(6, 0)


@pytest.fixture(scope="module")
def states(clip, images):
    return encoded(clip, images)


def words_of(ids):
    return [WORDS[token] for token in ids if WORDS[token] not in ("<s>", "<end>", "<pad>")]


def test_questions_and_answers_are_decoded_as_they_were_written():
    tokenizer = make_tokenizer()
    unknown = VOCABULARY["<unk>"]
    for index in range(200):
        for question in make_questions(make_scene("train", index), stream("train", index)):
            for text in (question.text, question.answer):
                ids = tokenizer(text, add_special_tokens=False).input_ids
                assert unknown not in ids and tokenizer.decode(ids) == text


def test_images_are_drawn_once_and_read_as_they_were_drawn(tmp_path):
    images = training_images(5, 3, tmp_path)
    assert len(images) == 5 and len(list(tmp_path.iterdir())) == 1
    again = training_images(5, 3, tmp_path)
    for index in range(5):
        scene = make_scene("train", index, 3)
        for found in (images.scene(index), again.scene(index)):
            assert found.things == scene.things and found.strings == scene.strings
            assert any(thing.beside is found.strings[1] for thing in found.things)
            for name in ("pixels", "roles", "parts"):
                np.testing.assert_array_equal(getattr(found, name), getattr(scene, name))


def test_training_images_are_what_the_image_processor_makes_of_them():
    scene = make_scene("train", 3)
    expected = make_processor().image_processor(scene.pixels, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(normalised(torch.from_numpy(scene.pixels)[None]), expected, atol=1e-5, rtol=1e-5)


def test_patch_labels_name_what_can_be_asked_about():
    scene = make_scene("train", 5)
    labels = patch_labels(scene)
    for patch in range(144):
        things = [thing for thing in scene.things if patch in thing.patches]
        texts = [t for t in (scene.strings[0], *(x.beside for x in scene.things if x.beside)) if patch in t.patches]
        expected = dict.fromkeys(labels, IGNORE)
        for thing in things:
            expected |= {"kind": list(KINDS).index(thing.kind), "colour": list(COLOURS).index(thing.colour)}
        for text in texts:
            character = text.characters[text.patches.index(patch)]
            expected |= {
                "character": list(CHARACTERS).index(character),
                "colour": list(COLOURS).index(text.colour),
                "bold": int(text.bold),
            }
        assert {name: label[patch] for name, label in labels.items()} == expected


def test_dropping_keeps_things_more_often_and_whole_parts_unless_torn():
    shares, whole, torn = {role: [] for role in Role}, 0, 0
    for index in range(60):
        scene = make_scene("train", index)
        kept = kept_patches(scene, 40, np.random.default_rng(index))
        assert len(kept) == 40 and (np.diff(kept) > 0).all()
        for role in Role:
            shares[role].append(np.isin(np.flatnonzero(scene.roles == role), kept).mean())
        for part in np.unique(scene.parts):
            patches = np.flatnonzero(scene.parts == part)
            share = np.isin(patches, kept).mean()
            if len(patches) == 4 and patches[2] - patches[0] == 12:
                torn += share in (0.5, 0.75)
            else:
                whole += 0 < share < 1
    means = {role: np.mean(values) for role, values in shares.items()}
    assert means[Role.THING] > means[Role.STRING] + 0.1 > means[Role.DECOY] + 0.2
    assert whole <= 60  # at most the last part of each image
    assert torn > 30


def test_captions_name_what_is_shown_and_foils_one_other_kind():
    scene = make_scene("train", 8)
    seen = list(scene.things[:3])
    coloured = 0
    for seed in range(40):
        caption, foil = (words_of(ids) for ids in captions(scene, seen, np.random.default_rng(seed)))
        kinds = [word for word in caption if word in KINDS]
        assert sorted(kinds) == sorted(thing.kind for thing in seen)
        if len(caption) > 3:
            coloured += 1
            assert sorted(caption) == sorted(word for thing in seen for word in (thing.kind, thing.colour))
        (position,) = [i for i, pair in enumerate(zip(caption, foil, strict=True)) if pair[0] != pair[1]]
        assert foil[position] in set(KINDS) - {thing.kind for thing in scene.things}
    assert 8 < coloured < 32


def test_captions_never_name_details():
    shown = CaptionedImages(range(6), held_out_images(6, 0), None, 0)
    details = set(CHARACTERS) | {"text", "texts", "number", "bold", "thin"}
    for item in range(6):
        assert not details & set(words_of(shown[item]["caption"].tolist() + shown[item]["foil"].tolist()))
    texts = phrases(np.random.default_rng(0))
    assert len({tuple(ids) for ids in texts}) == len(texts) == len(KINDS) * (1 + len(COLOURS))
    assert not details & {word for ids in texts for word in words_of(ids)}


def test_texts_of_the_clip_are_those_of_its_tokenizer():
    scene = make_scene("train", 8)
    ids, _ = captions(scene, list(scene.things), np.random.default_rng(0))
    text = " ".join(words_of(ids))
    tokenizer = make_text_tokenizer()
    assert tokenizer(text, padding="max_length").input_ids == ids.tolist()


@torch.no_grad()
def test_the_tower_sees_only_the_kept_patches(images):
    module = VisionTraining(10).eval()
    pixels = normalised(images.pixels[:2])
    kept = torch.arange(0, 144, 5).expand(2, -1)
    pooled, patches = module(pixels, kept)
    covered = images.pixels[:2].clone()
    for patch in set(range(144)) - set(range(0, 144, 5)):
        row, column = divmod(patch, 12)
        covered[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 0
    for found, again in zip((pooled, patches), module(normalised(covered), kept), strict=True):
        torch.testing.assert_close(found, again)
    whole = module.clip.vision_model(pixel_values=pixels, output_hidden_states=True)
    pooled, patches = module(pixels, torch.arange(144).expand(2, -1))
    torch.testing.assert_close(pooled, whole.pooler_output, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(patches, whole.hidden_states[-2][:, 1:], atol=1e-4, rtol=1e-4)


def test_the_last_phase_of_the_tower_has_no_help():
    last = phase_of(VISION_PHASES, sum(phase.epochs for phase in VISION_PHASES) - 1)
    assert last.help == 0 and last.tokens is None
    assert phase_of(VISION_PHASES, 0) is VISION_PHASES[0]
    assert phase_of(VISION_PHASES, VISION_PHASES[0].epochs) is VISION_PHASES[1]


def projected(adapter, features):
    return GivenImages(adapter.project(features.float()), Arrangement((GRID,)))


def dialogues(images, states, **options):
    return SceneDialogues(range(6), images, states, Texts(**options), 0)


@torch.no_grad()
@pytest.mark.parametrize("repack", [True, False])
def test_packed_questions_get_the_logits_of_each_question_alone(clip, images, states, repack):
    module = LanguageTraining(untrained_llava(clip)).eval()
    module.phase = len(LANGUAGE_PHASES) - 1
    batch = collate([dialogues(images, states)[i] for i in (1, 4)])
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


@torch.no_grad()
@pytest.mark.parametrize("last", [False, True])
def test_the_first_blocks_hide_the_image_from_the_text_until_the_last_phase(clip, images, states, last):
    module = LanguageTraining(untrained_llava(clip)).eval()
    module.phase = len(LANGUAGE_PHASES) - 1 if last else 0
    batch = collate([dialogues(images, states)[0]])
    keep = torch.arange(144)[None]
    found = {}
    for name, features in (("image", states[:1]), ("another", states[1:2])):
        outputs = []
        hooks = [
            layer.register_forward_hook(lambda _, __, output, to=outputs: to.append(output))
            for layer in module.llava.model.language_model.layers[:3]
        ]
        module(batch | {"features": features}, keep, False)
        for hook in hooks:
            hook.remove()
        found[name] = [states[:, 3 + 144 :] for states in outputs]
    same = [torch.equal(one, other) for one, other in zip(found["image"], found["another"], strict=True)]
    assert same == ([False] * 3 if last else [True, True, False])


def test_targets_are_the_answers_and_weigh_the_root_of_their_length(images, states):
    row = dialogues(images, states)[2]
    questions = make_questions(images.scene(2), _generator_behind_the_kinds(2))
    tokenizer = make_tokenizer()
    weight = _token_weight(row["target"][None], row["block"][None])[0]
    for number, question in enumerate(questions):
        target = row["target"][row["block"] == number]
        answer = tokenizer(question.answer, add_special_tokens=False).input_ids
        assert target[target != IGNORE].tolist() == [*answer, VOCABULARY["</s>"]]
        light = sum(token == VOCABULARY[","] for token in answer) + 1
        length = len(answer) - light + 1 + 0.1 * light
        assert weight[row["block"] == number].sum().item() == pytest.approx(length**0.5)


def _generator_behind_the_kinds(item):
    rng = np.random.default_rng([0, 2, item])
    rng.permutation(len(KIND_NAMES))
    return rng


def test_dense_texts_are_true():
    numbers = ("one", "two", "three", "four", "five", "six")
    for index in range(20):
        scene = make_scene("train", index)
        by_kind = {thing.kind: thing for thing in scene.things}
        things, existence, relations, texts, colours = dense_texts(
            scene, np.random.default_rng(index), 5, shuffled=False
        )
        for item in _items(things):
            thing = by_kind[item[0]]
            beside = list(thing.beside.characters) if thing.beside else []
            assert item[1:] == [thing.size, thing.colour, *scene.quadrant(thing.patches), *beside]
        assert len(_items(things)) == len(scene.things)
        for colour, kind, answer in zip(*[iter(word for word, _ in existence)] * 3, strict=True):
            assert (answer == "yes") == (kind in by_kind and by_kind[kind].colour == colour)
        for one, other, *answer in _items(relations):
            assert " ".join(answer) == scene.direction(by_kind[one], by_kind[other])
        for colour, word, weight, *rest in _items(texts):
            (text,) = [text for text in scene.strings if text.colour == colour]
            assert word == "text" and (weight == "bold") == text.bold
            assert rest == [*text.characters, *scene.quadrant(text.patches)]
        for colour, number, *kinds in _items(colours):
            true = [thing.kind for thing in scene.things if thing.colour == colour]
            assert number == numbers[len(true) - 1] and kinds == (true if len(true) == 1 else [])


def _items(words):
    items, item = [], []
    for word, _ in words:
        if word == ",":
            items.append(item)
            item = []
        else:
            item.append(word)
    assert not item
    return items


def test_given_words_of_dense_texts_are_no_targets(images, states):
    row = dialogues(images, states, questions=1, dense=1)[3]
    dense = row["block"] >= len(KIND_NAMES)
    target, ids = row["target"][dense], row["ids"][dense]
    predicted = ids[1:][target[:-1] != IGNORE]
    assert target[target != IGNORE].tolist() == predicted.tolist()
    assert not {WORDS[token] for token in predicted} & ({","} | set(KINDS))
    assert len(predicted) > 10


def test_shown_patches_are_first_those_that_can_be_asked_about(images):
    kept = relevant_first(images.roles, images.parts, 30)
    assert (kept.diff(dim=1) > 0).all()
    for row, roles in zip(kept, images.roles, strict=True):
        assert set(torch.where(roles <= Role.DIGIT)[0].tolist()) <= set(row.tolist())


def test_an_answer_is_right_if_all_its_tokens_are(images, states):
    batch = collate([dialogues(images, states)[i] for i in range(2)])
    logits = torch.nn.functional.one_hot(batch["target"].clamp(min=0), len(VOCABULARY)).float()
    assert all(right.all() for right in right_answers(logits, batch).values())
    number = KIND_NAMES.index("read")
    position = torch.where((batch["block"][1] == number) & (batch["target"][1] != IGNORE))[0][1]
    logits[1, position] = logits[1, position].roll(1)
    right = right_answers(logits, batch)
    assert right.pop("read").tolist() == [True, False]
    assert all(other.all() for other in right.values())


def test_a_phase_ends_when_its_questions_are_answered_or_its_epochs_are_over(clip, images, states, tmp_path):
    texts = Texts(1)
    phases = (
        LanguagePhase(3, 26, texts, {"color": 0.0, "exist": 0.0}),
        LanguagePhase(2, 26, texts, {"color": 0.0, "exist": 1.01}),
        LanguagePhase(1, None, texts),
    )
    data = DataLoader(SceneDialogues(range(2), images, states, texts, 0), batch_size=2, collate_fn=collate)
    asked = DataLoader(SceneDialogues(range(6), images, states, Texts(), 0), batch_size=6, collate_fn=collate)
    module, epochs = LanguageTraining(untrained_llava(clip), phases), []

    def training(epoch):
        epochs.append(module.phase)
        return data

    fit(module, Epochs(training, asked), tmp_path, epochs=6, clip_gradients=False)
    assert epochs == [0, 1, 1, 2]


def test_every_trained_weight_has_one_optimizer(clip):
    module = LanguageTraining(untrained_llava(clip))
    groups = [group for optimizer in module.configure_optimizers() for group in optimizer.param_groups]
    given = [id(weight) for group in groups for weight in group["params"]]
    trained = {id(weight) for weight in module.parameters() if weight.requires_grad}
    assert len(given) == len(set(given)) and set(given) == trained
    tower = {id(weight) for weight in module.llava.model.vision_tower.parameters()}
    assert not trained & tower


SMALL = "--images 12 --shown-images 6 --epoch-steps 2 --epoch-share 0.01 --card-questions 28".split()


def trained(folder, stage, *options):
    folder.mkdir(exist_ok=True)
    done = run("train_reference", "--out", str(folder), *SMALL, "--stage", stage, *options, folder=folder)
    assert done.returncode == 0, done.stderr


def weights(folder):
    return (folder / "llava" / "model.safetensors").read_bytes()


def test_the_script_trains_the_first_stage(tmp_path):
    trained(tmp_path, "vision")
    assert (tmp_path / "vision" / "last.ckpt").exists()
    assert CLIPModel.from_pretrained(tmp_path / "clip").config.vision_config.num_hidden_layers == 8


@extended("training")
def test_the_script_trains_exports_describes_and_continues(tmp_path):
    trained(tmp_path / "a", "all")
    loaded = load(tmp_path / "a" / "llava", companion=tmp_path / "a" / "clip")
    assert loaded.adapter.tower.grid.patches == 144
    assert Image.open(tmp_path / "a" / "training.png").size == (2100, 900)
    assert "| all | 28 |" in (tmp_path / "a" / "llava" / "README.md").read_text()
    tower, own = loaded.companion.clip.vision_model.state_dict(), loaded.model.model.vision_tower.state_dict()
    assert all(torch.equal(tower[name.removeprefix("vision_model.")], value) for name, value in own.items())
    first = weights(tmp_path / "a")
    trained(tmp_path / "a", "language")
    assert weights(tmp_path / "a") == first
    trained(tmp_path / "b", "vision")
    trained(tmp_path / "b", "language")
    assert weights(tmp_path / "b") == first, "a training depends on more than its seed"
