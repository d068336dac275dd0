import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from foveate.core.errors import DataError
from foveate.data.load import data_hash, default_split, load_samples
from foveate.data.scenes.bitmaps import KINDS, LETTERS
from foveate.data.scenes.moving import FRAMES, PARTS, make_moving_scene
from foveate.data.scenes.moving_questions import CLIP_QUESTIONS, make_clip_question
from foveate.data.scenes.scene import Role, stream
from foveate.metrics.answers import score_of
from foveate.reference.architecture import VOCABULARY

SCENES = [make_moving_scene("search", index) for index in range(400)]
LEARNED = 250  # clips whose answers the guessing answerers know; they are tested on the others
NUMBERS = "no one two three four five six".split()


def questions_of(kind):
    return [make_clip_question(kind, scene, stream("search", index, 0, 3)) for index, scene in enumerate(SCENES)]


QUESTIONS = {kind: questions_of(kind) for kind in CLIP_QUESTIONS}


def facts_of(scene):
    """For each frame what it shows: by kind or letter the colour, the middle from the top and left, in [-1, 1]."""
    frames = [{} for _ in range(FRAMES)]
    edge = len(scene.ground)
    for track in scene.tracks:
        if track.role != Role.DECOY:
            for frame, colour in zip(track.frames, track.colours, strict=True):
                down, right = [(side.start + side.stop) / edge - 1 for side in track.window(frame)]
                frames[frame][track.name] = (colour, down, right)
    return frames


FACTS = [facts_of(scene) for scene in SCENES]


def kinds_in(frame):
    return [name for name in frame if name in KINDS]


def answered_from(question, frames):
    """Answers from the facts of all frames, without the tracks."""
    seen = list(dict.fromkeys(kind for frame in frames for kind in kinds_in(frame)))
    words = re.findall(r"\w+", question.text)
    if question.kind == "order":
        return seen[NUMBERS.index(words[-1]) - 1]
    if question.kind == "count":
        return NUMBERS[len(seen)]
    if question.kind == "where":
        _, down, right = [frame[words[3]] for frame in frames if words[3] in frame][-1]
        return words[5 if (down if "upper" in words else right) > 0 else 4]
    if question.kind == "when":
        first = next(number for number, frame in enumerate(frames) if words[-1] in frame)
        return NUMBERS[1 + first // (len(frames) // PARTS)]
    if question.kind == "text":
        return next(n for frame in frames for n, (colour, *_) in frame.items() if n in LETTERS and colour == words[3])
    looks = {kind: list(dict.fromkeys(frame[kind][0] for frame in frames if kind in frame)) for kind in seen}
    (kind,) = [kind for kind, colours in looks.items() if colours == [words[3], words[5]]]
    return kind


def cue_of(question, frame):
    """Facts of one frame that may help to answer a question."""
    words = re.findall(r"\w+", question.text)
    if question.kind == "count":
        return len(kinds_in(frame))
    if question.kind == "where":
        place = frame.get(words[3])
        return words[4], place and place["upper left".split().index(words[4]) + 1] > 0
    return question.kind == "when" and words[-1] in frame


def guessed(question, frame, usual):
    """The best guess of who sees one frame: a thing or letter that it shows, else the usual answer for its cue."""
    words = re.findall(r"\w+", question.text)
    fits = {
        "order": kinds_in(frame),
        "text": [name for name, (colour, *_) in frame.items() if name in LETTERS and colour == words[3]],
        "change": [kind for kind in kinds_in(frame) if frame[kind][0] in (words[3], words[-1])],
    }
    shown = fits.get(question.kind)
    return shown[0] if shown else usual[cue_of(question, frame)].most_common(1)[0][0]


def accuracy_of_one_frame(kind, number):
    pairs = [(question, facts[number]) for question, facts in zip(QUESTIONS[kind], FACTS, strict=True)]
    usual = defaultdict(Counter)
    for question, frame in pairs[:LEARNED]:
        usual[cue_of(question, frame)][question.answer] += 1
    return np.mean([guessed(question, frame, usual) == question.answer for question, frame in pairs[LEARNED:]])


@pytest.mark.parametrize("kind", CLIP_QUESTIONS)
def test_answers_follow_from_the_facts_of_all_frames(kind):
    for question, frames in zip(QUESTIONS[kind], FACTS, strict=True):
        assert question.answer == answered_from(question, frames), question.text


@pytest.mark.parametrize("kind", CLIP_QUESTIONS)
def test_no_answer_of_a_kind_is_much_more_frequent_than_others(kind):
    answers = Counter(question.answer for question in QUESTIONS[kind])
    assert max(answers.values()) <= 1.4 * len(SCENES) / len(answers) and len(answers) >= 4


@pytest.mark.parametrize("kind", CLIP_QUESTIONS)
def test_the_most_frequent_answer_to_the_same_question_is_seldom_right(kind):
    usual = defaultdict(Counter)
    for question in QUESTIONS[kind][:LEARNED]:
        usual[question.text][question.answer] += 1
    hits = [
        usual[question.text].most_common(1)[0][0] == question.answer
        for question in QUESTIONS[kind][LEARNED:]
        if question.text in usual
    ]
    assert len(hits) >= 30 and np.mean(hits) < (0.62 if kind == "where" else 0.45)


def test_one_frame_does_not_suffice():
    best = {kind: max(accuracy_of_one_frame(kind, frame) for frame in range(FRAMES)) for kind in CLIP_QUESTIONS}
    assert all(best[kind] < 0.75 for kind in best) and np.mean(list(best.values())) < 0.5, best


def test_evidence_covers_exactly_the_pixels_that_differ_from_a_clip_without_the_thing():
    for scene in SCENES[:12]:
        frames = scene.pixels()
        for track in scene.tracks:
            np.testing.assert_array_equal(scene.mask(track), (frames != scene.pixels(without=track)).any(-1))


def test_no_patch_shows_two_tracks():
    for scene in SCENES[:50]:
        assert np.sum([scene.mask(track) for track in scene.tracks], axis=0).max() == 1


def test_a_text_is_shown_in_one_part_only():
    for scene in SCENES:
        parts = [{frame * PARTS // FRAMES for frame in text.frames} for text in scene.texts]
        assert [len(part) for part in parts] == [1, 1] and parts[0] != parts[1]


def test_as_much_moves_whatever_the_number_of_things():
    assert {len(scene.things) + len(scene.decoys) for scene in SCENES} == {8}
    assert {len(scene.things) for scene in SCENES} == {3, 4, 5, 6}


def test_only_the_needed_frames_have_evidence():
    samples = {sample.kind: sample for sample in load_samples("clips", "test", limit=6)}
    shown = {kind: [mask.any((1, 2)).sum() for mask in sample.frame_evidence] for kind, sample in samples.items()}
    assert set(shown["order"]) == set(shown["where"]) == set(shown["when"]) == {1}
    assert shown["text"] == [2] and len(shown["change"]) == 2 and all(shown["change"])
    assert samples["count"].references == (NUMBERS[len(shown["count"])],)


def test_evidence_follows_the_frames_that_are_shown():
    (many,), (few,) = (load_samples("clips", "test", limit=1, frames=frames) for frames in (8, 4))
    assert many.clip.seconds == [0.5 * frame for frame in range(8)] and few.clip.seconds == [0, 1, 2, 3.5]
    np.testing.assert_array_equal(few.frame_evidence, many.frame_evidence[:, [0, 2, 4, 7]])


def test_words_of_questions_and_answers_are_those_of_the_shipped_model():
    for questions in QUESTIONS.values():
        for question in questions:
            assert set(re.findall(r"\w+|[^\w\s]", question.text)) | {question.answer} <= set(VOCABULARY)


def test_clips_are_a_function_of_seed_and_split():
    again, other, later = (
        data_hash(load_samples("clips", split, limit=6, seed=seed))
        for split, seed in (("test", 0), ("search", 0), ("test", 1))
    )
    assert data_hash(load_samples("clips", "test", limit=6)) == again and len({again, other, later}) == 3


def test_questions_about_a_clip_follow_each_other_and_are_scored_exactly():
    samples = load_samples("clips", default_split("clips"), limit=12)
    assert [sample.image_id for sample in samples] == sorted(sample.image_id for sample in samples)
    assert Counter(sample.kind for sample in samples) == dict.fromkeys(CLIP_QUESTIONS, 2)
    assert all(score_of(sample.references[0], sample) == 1 for sample in samples)


def test_frames_may_have_sixteen_patches_per_side():
    (sample,) = load_samples("clips:16", "test", limit=1)
    assert sample.video and sample.video.size == sample.clip.frames[0].size == (128, 128)


def test_clips_are_not_read_from_a_place():
    with pytest.raises(DataError, match="clips are generated"):
        load_samples("clips:folder", "test")
    with pytest.raises(DataError, match="split 'val' of 'clips' is unknown"):
        load_samples("clips", "val")
