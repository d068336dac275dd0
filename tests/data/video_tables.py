"""Small folders of video benchmarks in the published layout."""

import json
from pathlib import Path

from datasets import Features, List, Value
from PIL import Image

from tests.data.tables import TEXT, TEXTS, write
from tests.data.video_files import write_video

VIDEOMME = {n: TEXT for n in ("video_id", "duration", "domain", "sub_category", "url", "videoID")} | {
    "question_id": TEXT,
    "task_type": TEXT,
    "question": TEXT,
    "options": TEXTS,
    "answer": TEXT,
}
SUBTITLES = """\ufeff1
00:00:00,000 --> 00:00:00,400
<font color="white" size=".72c">a star</font>

2
00:00:00,400 --> 00:00:00,900
<font color="white" size=".72c">moves
right</font>

3
00:00:07,000 --> 00:00:08,000
<font color="white" size=".72c">far behind the end</font>
"""


def _shared_video(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, 10)


def videomme(folder: Path) -> Path:
    """Writes two questions about a short video with subtitles and one about a long video without."""
    rows = [
        {
            "video_id": f"00{1 + number // 2}",
            "duration": "long" if number == 2 else "short",
            "domain": "Knowledge",
            "sub_category": "Humanity & History",
            "url": "https://example.org",
            "videoID": "fFjv93ACGo8" if number < 2 else "aBcDe_fG-h0",
            "question_id": f"00{1 + number // 2}-{1 + number % 2}",
            "task_type": "Counting Problem",
            "question": "How many stars are there?",
            "options": ["A. Apples.", "B. Two.", "C. C. elegans.", "D. Four."],
            "answer": "C",
        }
        for number in range(3)
    ]
    write(folder / "videomme" / "test-00000-of-00001.parquet", rows, VIDEOMME)
    _shared_video(folder / "data" / "fFjv93ACGo8.mp4")
    _shared_video(folder / "data" / "aBcDe_fG-h0.mkv")
    (folder / "subtitle").mkdir()
    (folder / "subtitle" / "fFjv93ACGo8.srt").write_text(SUBTITLES, encoding="utf-8")
    return folder


def mvbench(folder: Path) -> Path:
    """Writes questions of three tasks, two of which share a video, and the third has frames as images."""
    rows = {
        "moving_count": [{"video": "video_1.mp4", "candidates": ["1", "2", "3"], "answer": "3"}],
        "object_existence": [
            {"video": "video_1.mp4", "candidates": ["yes", "no"], "answer": "no", "accurate_start": 1.5, "end": 2.0}
        ],
        "episodic_reasoning": [{"video": "castle", "candidates": ["a", "b", "c", "d", "e"], "answer": "e", "fps": 3}],
    }
    (folder / "json").mkdir(parents=True)
    for task, found in rows.items():
        found = [{"question": "How many stars move?"} | row for row in found]
        (folder / "json" / f"{task}.json").write_text(json.dumps(found))
    _shared_video(folder / "video" / "clevrer" / "video_validation" / "video_1.mp4")
    frames = folder / "video" / "tvqa" / "frames_fps3_hq_segment" / "castle"
    frames.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (64, 48), (number, 0, 0)).save(frames / f"{number + 1:05d}.jpg")
    return folder


def longvideobench(folder: Path) -> Path:
    rows = [
        {
            "id": f"86CxyhFV9MI_{number}",
            "video_id": "86CxyhFV9MI",
            "video_path": "86CxyhFV9MI.mp4",
            "question": "What moves first?",
            "candidates": ["a star", "a ring", "a cross", "a moon", "a sun"][: 5 - number],
            "correct_choice": 1,
            "duration_group": (15, 3600)[number],
            "question_category": ("S2E", "TOS")[number],
            "duration": 10.0,
        }
        for number in range(2)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lvb_val.json").write_text(json.dumps(rows))
    _shared_video(folder / "videos" / "86CxyhFV9MI.mp4")
    return folder


def longvideobench_parquet(folder: Path) -> Path:
    """Writes the table of the hub, whose options have columns of their own."""
    longvideobench(folder)
    (row, *_) = json.loads((folder / "lvb_val.json").read_text())
    (folder / "lvb_val.json").unlink()
    options = [*row.pop("candidates")[:3], "N/A", "N/A"]
    row |= {f"option{number}": option for number, option in enumerate(options)}
    types = {name: TEXT if isinstance(value, str) else Value("int64") for name, value in row.items()}
    write(folder / "validation-00000-of-00001.parquet", [row], types | {"duration": Value("float64")})
    return folder


def mlvu(folder: Path) -> Path:
    rows = [
        {
            "video_name": "movie_1.mp4",
            "duration": 480.0,
            "question": "What moves?\n(A) a star\n(B) a ring\n(C) a cross\n(D) a moon",
            "answer": "AB"[number],
            "task_type": ("plotQA", "count")[number],
        }
        for number in range(2)
    ]
    types = {n: TEXT for n in ("video_name", "question", "answer", "task_type")} | {"duration": Value("float64")}
    write(folder / "data" / "test-00000-of-00001.parquet", rows, types)
    _shared_video(folder / "movie_1.mp4")
    return folder


EGOSCHEMA = Features(
    {n: TEXT for n in ("question_idx", "question", "video_idx", "answer")} | {"option": List(Value("string"))}
)


def egoschema(folder: Path) -> Path:
    """Writes a question of the subset and two of the full set, which have no answers."""
    for config, names in (("Subset", "a"), ("MC", "ab")):
        rows = [
            {
                "question_idx": str(number),
                "question": "What does C do?",
                "video_idx": f"0074f737-11cb-497d-8d07-77c3a8127391-{name}",
                "option": [f"{letter}. C cuts {thing}." for letter, thing in zip("ABCDE", "vwxyz", strict=True)],
                "answer": "3" if config == "Subset" else None,
            }
            for number, name in enumerate(names)
        ]
        write(folder / config / "test-00000-of-00001.parquet", rows, dict(EGOSCHEMA))
    for name in "ab":
        _shared_video(folder / "videos" / f"0074f737-11cb-497d-8d07-77c3a8127391-{name}.mp4")
    return folder


FILES = {
    "egoschema": egoschema,
    "longvideobench": longvideobench,
    "mlvu": mlvu,
    "mvbench": mvbench,
    "videomme": videomme,
    "videomme_subtitles": videomme,
}
