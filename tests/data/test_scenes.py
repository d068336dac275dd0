import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from foveate.core.errors import DataError
from foveate.data.load import data_hash, load_samples
from foveate.data.scenes import tiles
from foveate.data.scenes.bitmaps import CHARACTERS, COLOURS, DIGITS, KINDS, LETTERS, character_bitmap, kind_bitmaps
from foveate.data.scenes.questions import QUESTION_KINDS, make_question, make_questions
from foveate.data.scenes.scene import GRIDS, PATCH, SPLITS, Role, make_scene, stream

SCENES = [make_scene("search", index) for index in range(200)]
THINGS, DETAILS = (Role.THING,), (Role.STRING, Role.DIGIT)
REST = (Role.DECOY, Role.CLUTTER, Role.GROUND)


def questions_of(kind, count=120):
    for index, scene in enumerate(SCENES[:count]):
        yield scene, make_question(kind, scene, stream("search", index, 9))


def words_of(text):
    return text.replace("?", " ").replace(".", " ").replace(",", " ").split()


def kinds_in(text):
    return [word for word in words_of(text) if word in KINDS]


def named(scene, kind):
    (thing,) = [thing for thing in scene.things if thing.kind == kind]
    return thing


def string_of(scene, colour):
    (text,) = [text for text in scene.strings if text.colour == colour]
    return text


def half(scene, patches):
    """Half of the image by the pixels of a mask, not by patch numbers."""
    rows, columns = scene.masks([patches])[0].nonzero()
    middle = len(scene.pixels) / 2
    return (
        f"{'upper' if rows.mean() + 0.5 < middle else 'lower'} {'left' if columns.mean() + 0.5 < middle else 'right'}"
    )


def test_a_scene_is_a_function_of_seed_split_and_index():
    again = make_scene("search", 7)
    assert again.things == SCENES[7].things and again.strings == SCENES[7].strings
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
    things = [make_scene(split, index).things for split in SPLITS for index in range(50)]
    assert len(set(things)) == len(things)


@pytest.mark.parametrize("grid", GRIDS)
def test_scenes_have_the_documented_contents(grid):
    for index in range(40):
        scene = make_scene("search", index, grid=grid)
        assert scene.pixels.shape == (grid * PATCH, grid * PATCH, 3) and scene.grid == grid
        assert 4 <= len(scene.things) <= 6
        assert len({thing.kind for thing in scene.things}) == len(scene.things)
        assert 1 in Counter(thing.colour for thing in scene.things).values()
        free, beside = scene.strings
        assert free.colour != beside.colour
        assert all(3 <= len(text.characters) <= 5 and set(text.characters) <= set(LETTERS) for text in scene.strings)
        lengths = sorted(len(thing.beside.characters) for thing in scene.things if thing.beside)
        assert lengths == [1, 1, len(beside.characters)]
        assert any(thing.beside is beside for thing in scene.things)
        asked = np.isin(scene.roles, (*THINGS, *DETAILS)).mean()
        assert asked <= (0.2 if grid == 12 else 0.1)


def test_roles_parts_and_contents_agree():
    for scene in SCENES[:60]:
        roles, parts = scene.roles.copy(), scene.parts
        for thing in scene.things:
            rows, columns = np.divmod(thing.patches, 12)
            assert set(rows) == set(range(thing.row, thing.row + thing.side))
            assert set(columns) == set(range(thing.column, thing.column + thing.side))
            if thing.beside:
                first = thing.row * 12 + thing.column + thing.side
                assert thing.beside.patches == tuple(range(first, first + len(thing.beside.characters)))
        texts = [scene.strings[0], *(thing.beside for thing in scene.things if thing.beside)]
        for part, role in [
            *((thing, Role.THING) for thing in scene.things),
            *((text, Role.DIGIT if text.characters in DIGITS else Role.STRING) for text in texts),
        ]:
            assert (roles[list(part.patches)] == role).all()
            (number,) = set(parts[list(part.patches)])
            assert np.flatnonzero(parts == number).tolist() == sorted(part.patches)
            roles[list(part.patches)] = Role.GROUND
        assert not np.isin(roles, (*THINGS, *DETAILS)).any()
        assert (parts >= 0).all()


def test_parts_are_drawn_with_their_bitmap_and_colour():
    """The ink of a part, found by its distance from the ground in the part's colour, is one of the placed bitmaps."""
    palette = np.array(list(COLOURS.values()))
    right = hits = total = 0
    for scene in SCENES[:60]:
        small = [thing for thing in scene.things if thing.side == 1]
        texts = [(c, patch, t) for t in scene.strings for c, patch in zip(t.characters, t.patches, strict=True)]
        shown = [(kind_bitmaps()[list(KINDS).index(t.kind)], t.patches[0], t.colour) for t in small]
        shown += [(character_bitmap(c, t.bold), patch, t.colour) for c, patch, t in texts]
        for bitmap, patch, colour in shown:
            row, column = divmod(patch, 12)
            pixels = scene.pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] / 255
            places = [np.pad(bitmap, ((dy, 1 - dy), (dx, 1 - dx))) > 0 for dy in (0, 1) for dx in (0, 1)]
            spread = [pixels[ink].std(0).sum() + pixels[~ink].std(0).sum() for ink in places]
            ink = places[int(np.argmin(spread))]
            hits += min(spread) < 0.5
            light = pixels[ink].mean(0)
            scaled = [np.abs(light - factor * palette).sum(1) for factor in np.linspace(0.7, 1.05, 15)]
            right += list(COLOURS)[int(np.min(scaled, 0).argmin())] == colour
            total += 1
    assert hits / total > 0.98 and right / total > 0.95


def test_decoys_are_scrambled():
    """Every quarter of a decoy is a quarter of a bitmap, but not at its own place."""
    whole = {
        tuple(np.pad(b, ((dy, 1 - dy), (dx, 1 - dx))).ravel()) for b in kind_bitmaps() for dy in (0, 1) for dx in (0, 1)
    }
    assert not whole & {tuple(tile.ravel()) for tile in tiles.small_decoys()}
    large = {
        tuple(np.pad(b.repeat(2, 0).repeat(2, 1), ((dy, 2 - dy), (dx, 2 - dx))).ravel())
        for b in kind_bitmaps()
        for dy in range(3)
        for dx in range(3)
    }
    assert not large & {tuple(tile.ravel()) for tile in tiles.large_decoys()}
    patches = {
        tuple(tile.reshape(2, 8, 2, 8)[i, :, j].ravel())
        for tile in map(np.array, large)
        for i in (0, 1)
        for j in (0, 1)
    }
    for tile in tiles.large_decoys()[:200]:
        assert all(tuple(tile.reshape(2, 8, 2, 8)[i, :, j].ravel()) in patches for i in (0, 1) for j in (0, 1))


def pixel_filters(pixels):
    """Statistics of single patches, {name: (patch,)}."""
    image = pixels / 255
    patches = image.reshape(12, 8, 12, 8, 3).transpose(0, 2, 1, 3, 4).reshape(144, 8, 8, 3)
    mean, grey = patches.mean((1, 2)), patches.mean(-1)
    down, right = np.abs(np.diff(patches, axis=1)).mean((1, 2, 3)), np.abs(np.diff(patches, axis=2)).mean((1, 2, 3))
    light = image.mean(-1)
    steps = np.abs(np.diff(light, axis=0, append=light[-1:])) + np.abs(np.diff(light, axis=1, append=light[:, -1:]))
    return {
        "saturation": (patches.max(-1) - patches.min(-1)).mean((1, 2)),
        "saturation of the mean": mean.max(1) - mean.min(1),
        "red": mean[:, 0],
        "green": mean[:, 1],
        "blue": mean[:, 2],
        "brightness": mean.mean(1),
        "contrast": grey.std((1, 2)),
        "contrast of colour": patches.std((1, 2)).mean(1),
        "horizontal edges": down,
        "vertical edges": right,
        "edges inside": down + right,
        "edges": steps.reshape(12, 8, 12, 8).mean((1, 3)).ravel(),
        "unlike the mean": np.linalg.norm(mean - mean.mean(0), axis=1),
        "largest value": patches.max((1, 2, 3)),
    }


@pytest.mark.parametrize(("high", "bound"), [(THINGS + DETAILS, 0.60), (THINGS, 0.65), (DETAILS, 0.65)])
def test_no_pixel_filter_finds_what_is_asked(high, bound):
    """Neither large nor small values of a filter mark asked content, in the mean over images."""
    found = {}
    for scene in SCENES:
        positive, negative = np.isin(scene.roles, high), np.isin(scene.roles, REST)
        for name, values in pixel_filters(scene.pixels).items():
            above = mannwhitneyu(values[positive], values[negative]).statistic
            found.setdefault(name, []).append(above / (positive.sum() * negative.sum()))
    means = {name: np.mean(values) for name, values in found.items()}
    assert all(1 - bound <= mean <= bound for mean in means.values()), means


def test_evidence_is_a_small_part_of_an_image():
    shares = {kind: [] for kind in QUESTION_KINDS}
    for index, scene in enumerate(SCENES):
        for question in make_questions(scene, stream("search", index, 3)):
            patches = [patch for part in question.needed for patch in part]
            assert len(patches) == len(set(patches)) > 0
            shares[question.kind].append(len(patches) / 144)
            assert scene.masks(question.needed).sum() == 64 * len(patches)
    for kind, values in shares.items():
        assert 0.01 <= np.mean(values) <= 0.08, kind
        assert max(values) <= 0.0834, kind  # list: twelve patches


def test_half_of_the_kinds_have_long_answers():
    tokens = {
        kind: np.mean([len(words_of(q.answer)) + q.answer.count(",") for _, q in questions_of(kind)])
        for kind in QUESTION_KINDS
    }
    assert 2 * sum(count >= 3 for count in tokens.values()) >= len(tokens)


def test_a_kind_says_whether_it_asks_about_things_or_details():
    for index, scene in enumerate(SCENES[:60]):
        for question in make_questions(scene, stream("search", index, 3)):
            roles = {Role(scene.roles[patch]) for part in question.needed for patch in part}
            assert bool(roles & set(DETAILS)) == (QUESTION_KINDS[question.kind].about == "details"), question


def test_existence_answers_are_true_and_balanced():
    truths, bound = [], 0
    for scene, question in questions_of("exist", 200):
        *_, colour, kind = words_of(question.text)
        present = any(thing.colour == colour and thing.kind == kind for thing in scene.things)
        assert question.answer == ("yes" if present else "no")
        truths.append(present)
        both = {colour, kind} <= {w for thing in scene.things for w in (thing.colour, thing.kind)}
        bound += both and not present
        if both:
            assert question.needed == (named(scene, kind).patches,)
    assert 0.4 < np.mean(truths) < 0.6
    assert bound > 20  # colour and kind of two different things


def test_look_ups_give_the_properties_of_the_named_thing():
    for scene, question in questions_of("color"):
        assert question.answer == named(scene, kinds_in(question.text)[0]).colour
    for scene, question in questions_of("kind"):
        (thing,) = [thing for thing in scene.things if thing.colour == words_of(question.text)[-1]]
        assert question.answer == thing.kind and question.needed == (thing.patches,)
    for scene, question in questions_of("position"):
        assert question.answer == half(scene, named(scene, kinds_in(question.text)[0]).patches)
    for scene, question in questions_of("describe"):
        thing = named(scene, kinds_in(question.text)[0])
        size = "large" if len(thing.patches) == 4 else "small"
        assert question.answer == f"{size}, {thing.colour}, {half(scene, thing.patches)}"
    for scene, question in questions_of("compare"):
        one, other = (named(scene, kind) for kind in kinds_in(question.text))
        assert question.answer == f"{one.size} {one.colour}, {other.size} {other.colour}"


def test_counts_are_those_of_the_scene():
    answers = Counter()
    for scene, question in questions_of("count", 200):
        colour = words_of(question.text)[-1]
        things = [thing for thing in scene.things if thing.colour == colour]
        assert question.answer == ("one", "two", "three", "four", "five", "six")[len(things) - 1]
        assert sorted(question.needed) == sorted(thing.patches for thing in things)
        answers[question.answer] += 1
    assert max(answers.values()) < 0.7 * answers.total()


def test_relations_hold_in_the_image():
    for scene, question in questions_of("relation"):
        one, other = (named(scene, kind) for kind in kinds_in(question.text))
        (y, x), (v, u) = (np.mean(scene.masks([thing.patches])[0].nonzero(), 1) for thing in (one, other))
        words = question.answer.split()
        assert words
        assert ("above" in words) == (v - y >= 8) and ("below" in words) == (y - v >= 8)
        assert ("left" in words) == (u - x >= 8) and ("right" in words) == (x - u >= 8)


def test_texts_are_read_from_left_to_right():
    for scene, question in questions_of("read"):
        text = string_of(scene, words_of(question.text)[3])
        assert question.answer == " ".join(text.characters) and question.needed == (text.patches,)
    for scene, question in questions_of("digit"):
        thing = named(scene, kinds_in(question.text)[0])
        assert question.answer == thing.beside.characters
        assert question.needed == (thing.patches, thing.beside.patches)
    for scene, question in questions_of("two_hop"):
        thing = named(scene, kinds_in(question.text)[0])
        assert question.answer == " ".join(thing.beside.characters)
        assert question.needed == (thing.patches, thing.beside.patches)
    for scene, question in questions_of("describe_text"):
        text = string_of(scene, words_of(question.text)[2])
        weight = "bold" if text.bold else "thin"
        assert question.answer == f"{weight}, {' '.join(text.characters)}, {half(scene, text.patches)}"


def test_lists_name_everything_in_reading_order():
    for scene, question in questions_of("list"):
        assert set(question.answer.split(", ")) == {f"{t.colour} {t.kind}" for t in scene.things}
        kinds = kinds_in(question.answer)
        assert [min(named(scene, kind).patches) for kind in kinds] == sorted(min(t.patches) for t in scene.things)
        assert sorted(question.needed) == sorted(thing.patches for thing in scene.things)
    for scene, question in questions_of("list_texts"):
        assert set(question.answer.split(", ")) == {f"{t.colour} {' '.join(t.characters)}" for t in scene.strings}


def test_a_limit_is_a_prefix_and_all_questions_of_an_image_follow_each_other():
    samples = load_samples("scenes", "search", limit=25)
    assert [s.id for s in samples] == [s.id for s in load_samples("scenes", "search", limit=40)[:25]]
    assert len(samples) == 25
    assert [s.image_id for s in samples] == sorted(s.image_id for s in samples)
    assert all(s.evidence.any((1, 2)).all() for s in samples)


def test_larger_scenes_are_another_data_set():
    small, large = (load_samples(name, "search", limit=14) for name in ("scenes", "scenes:16"))
    assert {sample.image.size for sample in small} == {(96, 96)}
    assert {sample.image.size for sample in large} == {(128, 128)}
    assert load_samples("scenes:12", "search", limit=14)[3].question == small[3].question
    assert data_hash(large) != data_hash(small)


def test_two_images_have_a_question_of_every_kind():
    samples = load_samples("scenes", "search", limit=28)
    for half in (samples[:14], samples[14:]):
        assert {sample.kind for sample in half} == set(QUESTION_KINDS)
        assert len({sample.image_id for sample in half}) == 2


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


def test_all_characters_differ():
    bitmaps = {tuple(character_bitmap(name, bold).ravel()) for name in CHARACTERS for bold in (False, True)}
    assert len(bitmaps) == 2 * len(CHARACTERS)
    assert len({tuple(bitmap.ravel()) for bitmap in kind_bitmaps()}) == len(KINDS)
