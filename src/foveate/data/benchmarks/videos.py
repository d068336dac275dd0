"""Multiple-choice benchmarks about videos, read from local folders in the published layout.

The references are the letter and the text of the correct option. Prompts are those of lmms-eval.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from os.path import isabs, normpath
from pathlib import Path
from string import ascii_uppercase

import numpy as np

from foveate.core.errors import DataError, message_of, shown
from foveate.data.benchmark import Benchmark, Row, RowQuestion, id_of, is_missing, option_of, text_of, texts_of
from foveate.data.sample import Form, Scoring
from foveate.data.stored import Part
from foveate.data.video import VideoSource
from foveate.data.video_file import FrameFolder, VideoFile

_LABEL = re.compile(r"\s*\(?([A-Z])[.:)]\s*(.*)", re.DOTALL)
_ENDINGS = (".mp4", ".MP4", ".mkv", ".webm", ".avi", ".mov")
_SUBTITLED_MOMENTS = 32  # of lmms-eval: subtitles that are shown at these moments are in the prompt
_CUE = re.compile(r"(\d+):(\d+):(\d+)[,.](\d+) --> (\d+):(\d+):(\d+)[,.](\d+)")
_TAG = re.compile(r"<[^>]*>")
_FPS = 3.0  # of the folders of frames of MVBench


def _parse_videomme(row: Row, form: Form = "letter_video", hint: str = "") -> Iterator[RowQuestion]:
    options = tuple(_unlabelled(row["options"]))
    kind = ",".join(text_of(row, column) for column in ("duration", "domain", "sub_category", "task_type"))
    question = _question(row, "question", options, text_of(row, "answer"), "videomme")
    yield replace(question, id=id_of(row, "question_id"), kind=kind, form=form, hint=hint)


def _parse_subtitled(row: Row) -> Iterator[RowQuestion]:
    """Yields the question with the subtitles of the video, of which those at some moments are taken."""
    video: VideoFile = row["video_source"]
    name = Path("subtitle", f"{id_of(row, 'videoID')}.srt")
    found = [folder / name for folder in video.path.parents[:2] if (folder / name).is_file()]
    hint = "\n".join(_subtitles(found[0], video.last)) if found else "No subtitles available"
    yield from _parse_videomme(row, "letter_subtitles", hint)


def _parse_mvbench(row: Row) -> Iterator[RowQuestion]:
    options, answer = tuple(option_of(option) for option in row["candidates"]), option_of(row["answer"])
    if answer not in options:
        raise DataError(f"its answer is {shown(answer)}, expected one of its candidates {shown(list(options))}")
    letter = ascii_uppercase[options.index(answer)]
    yield replace(_question(row, "question", options, letter, "mvbench"), kind=row["file"], form="letter_mvbench")


def _parse_longvideobench(row: Row) -> Iterator[RowQuestion]:
    cells = texts_of(row, "candidates") or tuple(row.get(f"option{number}") for number in range(5))
    options = tuple(option_of(cell) for cell in cells if not is_missing(cell) and cell != "N/A")
    number = id_of(row, "correct_choice")
    if not number.isdecimal() or not int(number) < len(options):
        raise DataError(f"correct_choice is {shown(row['correct_choice'])}, expected the number of an option, from 0")
    kind = f"{id_of(row, 'duration_group')},{text_of(row, 'question_category')}"
    question = _question(row, "question", options, ascii_uppercase[int(number)], "longvideobench")
    yield replace(question, id=id_of(row, "id"), kind=kind)


def _parse_mlvu(row: Row) -> Iterator[RowQuestion]:
    """Yields the question, whose text holds its options."""
    letter = text_of(row, "answer")
    if letter not in tuple("ABCD"):
        raise DataError(f"its answer is {shown(letter)}, expected one of A, B, C, D")
    yield RowQuestion("", text_of(row, "task_type"), text_of(row, "question"), (letter,), "mlvu", "letter_mlvu")


def _parse_egoschema(row: Row) -> Iterator[RowQuestion]:
    options, number = tuple(_unlabelled(row["option"])), id_of(row, "answer")
    if number and not (number.isdecimal() and int(number) < len(options)):
        raise DataError(f"its answer is {shown(row['answer'])}, expected the number of an option, from 0")
    letter = ascii_uppercase[int(number)] if number else ""
    yield replace(_question(row, "question", options, letter, "egoschema"), id=id_of(row, "video_idx"))


def _unlabelled(options: Sequence[object]) -> list[str]:
    """Returns options without the letters that stand before all of them, which prompts have."""
    texts = [option_of(option) for option in options]
    labelled = [_LABEL.fullmatch(text) for text in texts]
    found = [match for match, letter in zip(labelled, ascii_uppercase, strict=False) if match and match[1] == letter]
    return [match[2].strip() for match in found] if len(found) == len(texts) else texts


def _question(row: Row, column: str, options: tuple[str, ...], letter: str, scoring: Scoring) -> RowQuestion:
    """Returns a question with options but without id and kind; an empty letter means that the answer is unknown."""
    if len(options) < 2:
        raise DataError(f"its options are {shown(list(options))}, expected at least two")
    if letter and (len(letter) != 1 or letter not in ascii_uppercase[: len(options)]):
        raise DataError(f"its answer is {shown(letter)}, expected one of {', '.join(ascii_uppercase[: len(options)])}")
    references = (letter, options[ascii_uppercase.index(letter)]) if letter else ()
    return RowQuestion("", "", text_of(row, column), references, scoring, "letter_direct", options)


def _subtitles(path: Path, last: float) -> Iterator[str]:
    """Yields the lines of subtitles that are shown at moments at equal distances from the first to the last frame.

    Args:
        path: A file of the format SubRip.
        last: Time of the last frame of the video in seconds.
    """
    moments = np.linspace(0, last, _SUBTITLED_MOMENTS).tolist()
    try:
        blocks = path.read_text(encoding="utf-8-sig").split("\n\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"subtitles {path.name!r} cannot be read: {message_of(error)}") from error
    for block in blocks:
        times, _, text = block.strip().partition("\n")
        if text and not _CUE.match(times):  # the number of the subtitle stands before its times
            times, _, text = text.partition("\n")
        if found := _CUE.match(times):
            start, end = (_seconds(found.groups()[place : place + 4]) for place in (0, 4))
            line = _TAG.sub("", text.replace("\n", " ")).strip()
            if line and bisect_left(moments, end) > bisect_left(moments, start):
                yield line


def _seconds(parts: Sequence[str]) -> float:
    hours, minutes, seconds, thousandths = map(int, parts)
    return 3600 * hours + 60 * minutes + seconds + thousandths / 1000


def _file(folder: Path, places: Sequence[str], name: str) -> Path:
    """Returns the file or folder of a video: of this name, or with another ending of videos.

    Args:
        folder: The folder of the benchmark.
        places: Folders below it that may hold the video.
        name: Name of the file, with or without an ending.

    Raises:
        DataError: There is none, or the name leads out of the folder.
    """
    if isabs(name) or normpath(name).startswith(".."):
        raise DataError(f"its video {shown(name)} leads out of the folder of the benchmark")
    stem = name.removesuffix(Path(name).suffix) if Path(name).suffix.lower() in map(str.lower, _ENDINGS) else name
    for place in places:
        for file in (name, *(stem + ending for ending in _ENDINGS)):
            if (found := folder / place / file).exists():
                return found
    raise DataError(
        f"its video {shown(name)} is in none of the folders {', '.join(place or '.' for place in places)} of {folder}: "
        "unpack the archives of the benchmark there"
    )


def _videomme_video(row: Row, folder: Path) -> VideoSource:
    name = id_of(row, "videoID")
    return VideoFile(_file(folder, ("data", "videos", "video", ""), name), name)


def _mvbench_video(row: Row, folder: Path) -> VideoSource:
    name = text_of(row, "video")
    if row["file"] not in MVBENCH_TASKS:
        raise DataError(f"its file is {shown(row['file'])}, expected one of {', '.join(MVBENCH_TASKS)}")
    places = [f"{root}{place}" for place in MVBENCH_TASKS[row["file"]] for root in ("", "video/", "data0613/")]
    if not (path := _file(folder, places, name)).is_dir():
        return VideoFile(path, name)
    return FrameFolder(path, name, _FPS)


def _longvideobench_video(row: Row, folder: Path) -> VideoSource:
    name = text_of(row, "video_path")
    return VideoFile(_file(folder, ("videos", "video", ""), name), name)


def _mlvu_video(row: Row, folder: Path) -> VideoSource:
    name = text_of(row, "video_name")
    return VideoFile(_file(folder, ("", "video", "videos"), name), name)


def _egoschema_video(row: Row, folder: Path) -> VideoSource:
    name = id_of(row, "video_idx")
    return VideoFile(_file(folder, ("videos", "video", ""), name), name)


DURATIONS = ("short", "medium", "long")
DOMAINS = {
    "Knowledge": (
        *("Humanity & History", "Literature & Art", "Biology & Medicine", "Finance & Commerce", "Astronomy"),
        *("Geography", "Law", "Life Tip", "Technology"),
    ),
    "Film & Television": ("Animation", "Movie & TV Show", "Documentary", "News Report"),
    "Sports Competition": ("Esports", "Basketball", "Football", "Athletics", "Other Sports"),
    "Artistic Performance": ("Stage Play", "Magic Show", "Variety Show", "Acrobatics"),
    "Life Record": ("Handicraft", "Food", "Fashion", "Daily Life", "Travel", "Pet & Animal", "Exercise"),
    "Multilingual": ("Multilingual",),
}
"""Sub-categories of VideoMME by domain."""
VIDEO_TASKS = (
    *("Temporal Perception", "Spatial Perception", "Attribute Perception", "Action Recognition", "Object Recognition"),
    *("OCR Problems", "Counting Problem", "Temporal Reasoning", "Spatial Reasoning", "Action Reasoning"),
    *("Object Reasoning", "Information Synopsis"),
)
"""Tasks of VideoMME."""
VIDEOMME = Benchmark(
    name="videomme",
    repo="lmms-lab/Video-MME",
    parts={"test": Part("test"), **{name: Part("test", only=("duration", name)) for name in DURATIONS}},
    split="test",
    columns=(
        *("videoID", "question_id", "question", "options", "answer"),
        *("duration", "domain", "sub_category", "task_type"),
    ),
    parse_row=_parse_videomme,
    image_id="videoID",
    image="",
    video=_videomme_video,
    answer_tokens=16,
    source="Fu et al. 2024, arXiv 2405.21075",
)
"""Questions about videos of three lengths, without their subtitles."""

VIDEOMME_SUBTITLES = replace(VIDEOMME, name="videomme_subtitles", parse_row=_parse_subtitled)
"""VideoMME with the subtitles in the prompt."""

_PERCEPTION, _CLEVRER = ("perception/videos",), ("clevrer/video_validation",)
_STAR = ("star/Charades_segment",)
MVBENCH_TASKS = {
    "action_sequence": _STAR,
    "action_prediction": _STAR,
    "action_antonym": ("ssv2_video", "ssv2_video_mp4"),
    "fine_grained_action": ("Moments_in_Time_Raw/videos",),
    "unexpected_action": ("FunQA_test/test",),
    "object_existence": _CLEVRER,
    "object_interaction": _STAR,
    "object_shuffle": _PERCEPTION,
    "moving_direction": _CLEVRER,
    "action_localization": ("sta/sta_video_segment",),
    "scene_transition": ("scene_qa/video",),
    "action_count": _PERCEPTION,
    "moving_count": _CLEVRER,
    "moving_attribute": _CLEVRER,
    "state_change": _PERCEPTION,
    "fine_grained_pose": ("nturgbd", "nturgbd_convert"),
    "character_order": _PERCEPTION,
    "egocentric_navigation": ("vlnqa",),
    "episodic_reasoning": ("tvqa/video_fps3_hq_segment", "tvqa/frames_fps3_hq_segment"),
    "counterfactual_inference": _CLEVRER,
}
"""Folders of the videos of MVBench by task; those of tasks about parts of videos hold the parts, cut beforehand."""
MVBENCH = Benchmark(
    name="mvbench",
    repo="OpenGVLab/MVBench",
    parts={"test": Part("train", json="json/*.json")},
    split="test",
    columns=("video", "question", "candidates", "answer", "file"),
    parse_row=_parse_mvbench,
    image_id=("file", "video"),
    image_id_of=lambda value: MVBENCH_TASKS.get(value, (str(value),))[0],  # tasks share videos
    image="",
    video=_mvbench_video,
    answer_tokens=16,
    source="Li et al. 2023, arXiv 2311.17005",
)
"""Twenty tasks about short videos, each with 200 questions."""

LENGTHS = ("15", "60", "600", "3600")
"""Longest videos of the groups of LongVideoBench in seconds."""
REFERRALS = (
    *("S2E", "S2O", "S2A", "E2O", "O2E", "T2E", "T2O", "T2A"),
    *("E3E", "O3O", "SSS", "SOS", "SAA", "T3E", "T3O", "TOS", "TAA"),
)
"""Categories of LongVideoBench: what a question refers to and what it asks about."""
LONGVIDEOBENCH = Benchmark(
    name="longvideobench",
    repo="longvideobench/LongVideoBench",
    parts={"validation": Part("validation", json="lvb_val.json")},
    split="validation",
    columns=("id", "video_path", "question", "correct_choice", "duration_group", "question_category"),
    parse_row=_parse_longvideobench,
    image_id="video_path",
    image="",
    video=_longvideobench_video,
    source="Wu et al. 2024, arXiv 2407.15754",
)
"""Questions that refer to a moment of a video of up to an hour, without its subtitles."""

MLVU_TASKS = ("anomaly_reco", "count", "ego", "needle", "order", "plotQA", "topic_reasoning")
MLVU = Benchmark(
    name="mlvu",
    repo="sy1998/MLVU_dev",
    parts={"dev": Part("test")},
    split="dev",
    columns=("video_name", "question", "answer", "task_type"),
    parse_row=_parse_mlvu,
    image_id="video_name",
    image="",
    video=_mlvu_video,
    answer_tokens=16,
    source="Zhou et al. 2024, arXiv 2406.04264",
)
"""The multiple-choice tasks of MLVU about videos of minutes to hours."""

EGOSCHEMA = Benchmark(
    name="egoschema",
    repo="lmms-lab/egoschema",
    parts={"subset": Part("test", "Subset"), "test": Part("test", "MC", answered=False)},
    split="subset",
    columns=("video_idx", "question", "option", "answer"),
    parse_row=_parse_egoschema,
    image_id="video_idx",
    image="",
    video=_egoschema_video,
    answer_tokens=16,
    source="Mangalam et al. 2023, arXiv 2308.09126",
)
"""Questions about what a person does in three minutes of a video from their view."""
