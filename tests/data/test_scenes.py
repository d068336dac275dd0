import os
import subprocess
import sys

import numpy as np
import pytest

from foveate.core.errors import DataError
from foveate.data.load import load_samples
from foveate.data.scenes.questions import QUESTION_KINDS, make_questions
from foveate.data.scenes.scene import COLOURS, IMAGE_SIZE, KINDS, SPLITS, make_scene, stream

SCENES = [make_scene("search", index) for index in range(60)]


def questions_of(kind):
    for index, scene in enumerate(SCENES):
        yield scene, QUESTION_KINDS[kind](scene, stream("search", index, 9))


def test_a_scene_is_a_function_of_seed_split_and_index():
    again = make_scene("search", 7)
    assert again.things == SCENES[7].things
    np.testing.assert_array_equal(again.pixels, SCENES[7].pixels)
    assert make_scene("search", 7, seed=1).things != again.things


def test_questions_do_not_depend_on_the_process():
    code = "from foveate.data.load import *; print(data_hash(load_samples('scenes', 'search', 55)))"
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(hashes) == 1


def test_splits_have_different_scenes():
    things = [make_scene(split, index).things for split in SPLITS for index in range(100)]
    assert len(set(things)) == len(things)


def test_scenes_have_the_documented_contents():
    for scene in SCENES:
        assert scene.pixels.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
        assert 2 <= len(scene.shapes) <= 4
        assert 1 <= len(scene.signs) <= 2
        assert len({thing.colour for thing in scene.things}) == len(scene.things)
        assert len({thing.kind for thing in scene.shapes}) == len(scene.shapes)


def test_masks_cover_pixels_of_the_colour_of_their_thing():
    near = total = 0
    palette = np.array(list(COLOURS.values()))
    for scene in SCENES:
        for mask, thing in zip(scene.masks(range(len(scene.things))), scene.things, strict=True):
            assert mask.sum() >= 60
            if thing.is_shape:
                colour = scene.pixels[mask].mean(0) / 255
                total += 1
                near += list(COLOURS)[int(np.abs(palette - colour).sum(1).argmin())] == thing.colour
    assert near / total > 0.97


def test_masks_are_centred_on_their_thing():
    for scene in SCENES:
        for mask, thing in zip(scene.masks(range(len(scene.things))), scene.things, strict=True):
            rows, columns = mask.nonzero()
            assert np.abs(rows.mean() - thing.y) < 0.4 * thing.radius
            assert np.abs(columns.mean() - thing.x) < 0.4 * thing.radius


def test_existence_answers_are_true_and_balanced():
    for kind in ("exist", "exist_adversarial"):
        truths = []
        for scene, question in questions_of(kind):
            *_, colour, shape = question.text.rstrip("?").split()
            present = any(t.colour == colour and t.kind == shape for t in scene.things)
            assert question.answer == ("yes" if present else "no")
            if kind == "exist_adversarial":
                assert {colour, shape} <= {w for t in scene.things for w in (t.colour, t.kind)}
            truths.append(present)
        assert 0.3 < np.mean(truths) < 0.7


def test_relations_hold_in_the_image():
    for scene, question in questions_of("relation"):
        words = question.text.rstrip("?").split()
        by_kind = {t.kind: t for t in scene.shapes}
        one, other = by_kind[words[2]], by_kind[words[-1]]
        holds = {
            "left": one.x < other.x,
            "right": one.x > other.x,
            "above": one.y < other.y,
            "below": one.y > other.y,
        }[words[3]]
        assert question.answer == ("yes" if holds else "no")


def test_multiple_choice_has_one_correct_option():
    for scene, question in questions_of("multiple_choice"):
        kind = question.text.split(":")[0].split()[-1]
        options = question.text.rstrip("?").split(":")[1].split()
        by_letter = dict(zip(options[::2], options[1::2], strict=True))
        assert by_letter[question.answer] == next(t.colour for t in scene.shapes if t.kind == kind)
        assert len(set(by_letter.values())) == len(by_letter) >= 2


def test_long_answers_name_every_shape_and_every_property():
    for scene, question in questions_of("list"):
        assert set(question.answer.split(", ")) == {f"{t.colour} {t.kind}" for t in scene.shapes}
        assert len(question.needed) == len(scene.shapes)
    for scene, question in questions_of("list_colors"):
        assert set(question.answer.split(", ")) == {f"{t.kind} {t.colour}" for t in scene.shapes}
    for scene, question in questions_of("describe"):
        thing = scene.things[question.needed[0]]
        assert question.answer == f"{thing.size}, {thing.colour}, {' '.join(thing.quadrant)}"


def test_needed_things_are_named_in_the_question():
    for index, scene in enumerate(SCENES):
        for question in make_questions(scene, stream("search", index, 3)):
            if question.kind in ("color", "position", "describe", "multiple_choice", "relation"):
                assert {scene.things[i].kind for i in question.needed} == set(KINDS) & set(
                    question.text.replace("?", " ").replace(":", " ").replace(".", " ").split()
                )


def test_a_limit_is_a_prefix_and_all_questions_of_an_image_follow_each_other():
    samples = load_samples("scenes", "search", limit=25)
    assert [s.id for s in samples] == [s.id for s in load_samples("scenes", "search", limit=40)[:25]]
    assert len(samples) == 25
    assert [s.image_id for s in samples] == sorted(s.image_id for s in samples)
    assert all(s.evidence.any((1, 2)).all() for s in samples)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("coco", "test"), "'coco' is unknown; known: scenes"),
        (("scenes", "validation"), "'validation'.*known: train, search, test"),
        (("scenes", "test", 0), "limit=0"),
    ],
)
def test_an_unknown_name_is_listed_with_the_known_ones(arguments, message):
    with pytest.raises(DataError, match=message):
        load_samples(*arguments)
