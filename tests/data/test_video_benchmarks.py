"""Benchmarks about videos: small folders in the published layout become questions."""

import json

import pytest

from foveate.core.errors import DataError
from foveate.data.benchmarks import BENCHMARKS
from foveate.data.load import load_samples
from foveate.data.prompts import format_prompt
from foveate.metrics.answers import score_of
from tests.data import video_tables
from tests.data.video_files import write_sound


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


SELECT = (
    "Select the best answer to the following multiple-choice question based on the video and the subtitles. Respond "
    "with only the letter (A, B, C, or D) of the correct option.\nHow many stars are there?\n"
    "A. Apples.\nB. Two.\nC. C. elegans.\nD. Four.\n"
)
DIRECTLY = "\nAnswer with the option's letter from the given choices directly."
# questions and videos; references, kind and prompt of the first question
EXPECTED = {
    "videomme": (
        3,
        2,
        ("C", "C. elegans."),
        "short,Knowledge,Humanity & History,Counting Problem",
        SELECT + DIRECTLY,
    ),
    "videomme_subtitles": (
        3,
        2,
        ("C", "C. elegans."),
        "short,Knowledge,Humanity & History,Counting Problem",
        f"This video's subtitles are listed below: \na star\nmoves right\n{SELECT}The best answer is:",
    ),
    "mvbench": (
        3,
        2,
        ("E", "e"),
        "episodic_reasoning",
        "Question:How many stars move?\nOption:\n(A) a\n(B) b\n(C) c\n(D) d\n(E) e\nOnly give the best option.",
    ),
    "longvideobench": (
        2,
        1,
        ("B", "a ring"),
        "15,S2E",
        "What moves first?\nA. a star\nB. a ring\nC. a cross\nD. a moon\nE. a sun" + DIRECTLY,
    ),
    "mlvu": (
        2,
        1,
        ("A",),
        "plotQA",
        "What moves?\n(A) a star\n(B) a ring\n(C) a cross\n(D) a moon\nOnly give the best option.\nBest option: (",
    ),
    "egoschema": (
        1,
        1,
        ("D", "C cuts y."),
        "",
        "What does C do?\nA. C cuts v.\nB. C cuts w.\nC. C cuts x.\nD. C cuts y.\nE. C cuts z." + DIRECTLY,
    ),
}


def loaded(name, folder, split=None, make=None):
    table = (make or video_tables.FILES[name])(folder / name)
    return load_samples(f"{name}:{table}", split or BENCHMARKS[name].split)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_folder_in_the_published_layout_becomes_questions_about_videos(name, tmp_path):
    samples = loaded(name, tmp_path)
    questions, videos, references, kind, prompt = EXPECTED[name]
    assert [sample.problem for sample in samples] == [""] * questions
    assert len({sample.id for sample in samples}) == questions
    assert len({sample.image_id for sample in samples}) == videos
    first = samples[0]
    assert (first.references, first.kind, format_prompt(first, "llava")) == (references, kind, prompt)
    assert first.sources == () and len(first.clip.frames) > 2
    wrong = "B" if references[0] == "A" else "A"
    assert [score_of(f"({letter}) it", first) for letter in (references[0], wrong)] == [1, 0]


def test_llava_next_video_is_asked_for_the_best_answer(tmp_path):
    first = loaded("videomme", tmp_path)[0]
    assert format_prompt(first, "llava_next_video") == SELECT + "The best answer is:"
    assert format_prompt(first, "qwen2_5_vl") == format_prompt(first, "internvl") == SELECT + DIRECTLY


def test_the_splits_of_videomme_are_its_lengths(tmp_path):
    table = video_tables.videomme(tmp_path / "videomme")
    assert {split: len(load_samples(f"videomme:{table}", split)) for split in ("short", "long")} == {
        "short": 2,
        "long": 1,
    }


def test_a_video_without_subtitles_says_so(tmp_path):
    *_, last = loaded("videomme_subtitles", tmp_path)
    assert last.hint == "No subtitles available"


def test_the_full_set_of_egoschema_has_no_answers(tmp_path):
    samples = loaded("egoschema", tmp_path, "test")
    assert [(sample.references, sample.scoring) for sample in samples] == [((), "none")] * 2


def test_longvideobench_is_read_from_the_table_of_the_hub_too(tmp_path):
    (sample,) = loaded("longvideobench", tmp_path, make=video_tables.longvideobench_parquet)
    assert (sample.options, sample.references, sample.problem) == (("a star", "a ring", "a cross"), ("B", "a ring"), "")


def test_tasks_of_mvbench_that_show_one_video_share_it(tmp_path):
    _, count, existence = loaded("mvbench", tmp_path)
    assert count.image_id == existence.image_id and count.kind != existence.kind


BAD = {
    "no video": (lambda folder: (folder / "videos" / "86CxyhFV9MI.mp4").unlink(), "is in none of the folders videos,"),
    "outside": (lambda folder: change(folder, video_path="../a.mp4"), "leads out of the folder of the benchmark"),
    "answer": (lambda folder: change(folder, correct_choice=7), "correct_choice is 7, expected the number of an opt"),
    "one option": (
        lambda folder: change(folder, candidates=["a", "N/A"], correct_choice=0),
        r"its options are \['a'\], expected at lea",
    ),
}


def change(folder, **cells):
    rows = json.loads((folder / "lvb_val.json").read_text())
    (folder / "lvb_val.json").write_text(json.dumps([row | cells for row in rows]))


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_is_named_with_its_cause(kind, tmp_path):
    folder = video_tables.longvideobench(tmp_path / "long")
    damage, message = BAD[kind]
    damage(folder)
    samples = load_samples(f"longvideobench:{folder}", "validation")
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(samples[0].problem)


def test_a_file_that_is_no_list_is_named(tmp_path):
    folder = video_tables.longvideobench(tmp_path / "long")
    (folder / "lvb_val.json").write_text("[3]")
    with pytest.raises(DataError, match=r"lvb_val.json is not a list of rows in JSON"):
        load_samples(f"longvideobench:{folder}", "validation")


@pytest.mark.parametrize("location", ["", ":lmms-lab/Video-MME"])
def test_videos_are_read_from_a_folder_only(location):
    with pytest.raises(DataError, match=r"videos are read from a folder.*: --data videomme:FOLDER"):
        load_samples(f"videomme{location}", "test")


def test_a_video_that_cannot_be_decoded_is_named_with_its_question(tmp_path):
    folder = video_tables.longvideobench(tmp_path / "long")
    write_sound(folder / "videos" / "86CxyhFV9MI.mp4")
    with pytest.raises(DataError, match=r"question '86CxyhFV9MI_0': video '86CxyhFV9MI.mp4' has no frames, only audio"):
        _ = load_samples(f"longvideobench:{folder}", "validation")[0].clip
