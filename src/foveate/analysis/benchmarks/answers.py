"""Report of a benchmark run with one method, and submissions for the evaluation servers of benchmarks."""

import json
from collections.abc import Callable
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pandas as pd

from foveate.analysis.benchmark_numbers import write_numbers
from foveate.analysis.cells import Cell, shown_accuracy
from foveate.analysis.records import failure_note, read_records
from foveate.analysis.tables import write_text
from foveate.analysis.worst_kinds import worst_kind
from foveate.core.errors import DataError
from foveate.evaluation.records import RecordFolder
from foveate.metrics.open_answers import textvqa_normalised, vqa_normalised
from foveate.metrics.videos import drawn_letter, egoschema_letter, options_in


def _vqav2(records: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns results in the format of the VQA v2 evaluation page."""
    pairs = zip(records["sample_id"], records["prediction"], strict=True)
    return [{"question_id": int(name), "answer": vqa_normalised(text)} for name, text in pairs]


def _textvqa(records: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns results in the format of the TextVQA challenge."""
    pairs = zip(records["sample_id"], records["prediction"], strict=True)
    return [{"question_id": int(name), "answer": textvqa_normalised(text)} for name, text in pairs]


def _vizwiz(records: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns results in the format of the VizWiz VQA challenge."""
    pairs = zip(records["sample_id"], records["prediction"], strict=True)
    return [{"image": f"{name}.jpg", "answer": textvqa_normalised(text)} for name, text in pairs]


def _documents(records: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns results in the format of the DocVQA and InfographicVQA challenges, whose server normalises answers."""
    pairs = zip(records["sample_id"], records["prediction"], strict=True)
    return [{"questionId": int(name), "answer": text} for name, text in pairs]


def _captions(records: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns captions in the format of COCO's results, which scripts of CHAIR with its authors' synonyms read."""
    pairs = zip(records["sample_id"], records["prediction"], strict=True)
    return [{"image_id": int(name.rsplit("_", 1)[-1]), "caption": text} for name, text in pairs]


def _mmvet(records: pd.DataFrame) -> dict[str, str]:
    """Returns answers by question ID, the format of both MM-Vet graders."""
    return dict(zip(records["sample_id"], records["prediction"], strict=True))


def _egoschema(records: pd.DataFrame) -> dict[str, int]:
    """Returns the number of the chosen option by video, the format of EgoSchema's server."""
    found: dict[str, int] = {}
    for name, text, prompt in zip(records["sample_id"], records["prediction"], records["question"], strict=True):
        options = options_in(prompt)
        letter = egoschema_letter(text, options) or drawn_letter(name, len(options))
        found[name] = ascii_uppercase.index(letter)
    return found


SUBMISSIONS: dict[str, Callable[[pd.DataFrame], Any]] = {
    "vqav2": _vqav2,
    "textvqa": _textvqa,
    "textvqa_ocr": _textvqa,
    "vizwiz": _vizwiz,
    "mmvet": _mmvet,
    "docvqa": _documents,
    "infographicvqa": _documents,
    "chair": _captions,
    "egoschema": _egoschema,
}
"""Functions from records to the JSON content of a submission, by data set."""


def report_answers(method: str, data: str, records: RecordFolder, folder: Path) -> str:
    """Writes the numbers of a run if its answers could be scored, and its submission; returns the text to print.

    Args:
        method: Name of the method.
        data: Name of the data set.
        records: Records of the run.
        folder: Folder to write to.
    """
    out, run_id = records.folder.parents[1], records.folder.name
    frame = read_records(out, run_id)
    tokens = frame.loc[frame["has_image"], "tokens"]
    cells = [Cell(method, method, "", round(tokens.mean()) if len(tokens) else 0, run_id)]
    parts = [f"n = {len(frame):,} questions of {data}, {len(frame) - len(tokens):,} of them without an image."]
    if frame["score"].notna().all():
        parts.append(f"Mean score {shown_accuracy(frame)}.")
        parts.append(str(worst_kind(frame) or ""))
        parts.append(write_numbers(data, cells, out, folder))
    if data in SUBMISSIONS:
        write_submission(data, frame, folder / "submission.json")
        parts.append(f"Submission: {folder / 'submission.json'}")
    return "\n".join(part for part in [*parts, failure_note(records)] if part)


def write_submission(data: str, records: pd.DataFrame, path: Path) -> None:
    """Writes the submission of a run atomically.

    Args:
        data: Name of the data set.
        records: Records of the run; questions that failed are missing, and a server may require them.
        path: Path of the JSON file.

    Raises:
        DataError: The data set has no format for submissions.
    """
    if data not in SUBMISSIONS:
        raise DataError(f"data {data!r} has no format for submissions; those that have: {', '.join(SUBMISSIONS)}")
    write_text(json.dumps(SUBMISSIONS[data](records), ensure_ascii=False, indent=1), path)
