"""Answers as the servers and graders of benchmarks want them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from foveate.core.errors import DataError
from foveate.core.storage import atomic_write
from foveate.metrics.open_answers import textvqa_normalised, vqa_normalised


def _vqav2(records: pd.DataFrame) -> list[dict[str, Any]]:
    """Source: the format of results on the evaluation page of VQA v2."""
    pairs = zip(records["sample_id"], records["prediction"], strict=True)
    return [{"question_id": int(name), "answer": vqa_normalised(text)} for name, text in pairs]


def _textvqa(records: pd.DataFrame) -> list[dict[str, Any]]:
    """Source: the format of the TextVQA challenge."""
    pairs = zip(records["sample_id"], records["prediction"], strict=True)
    return [{"question_id": int(name), "answer": textvqa_normalised(text)} for name, text in pairs]


def _vizwiz(records: pd.DataFrame) -> list[dict[str, Any]]:
    """Source: the format of the VizWiz VQA challenge."""
    pairs = zip(records["sample_id"], records["prediction"], strict=True)
    return [{"image": f"{name}.jpg", "answer": textvqa_normalised(text)} for name, text in pairs]


def _mmvet(records: pd.DataFrame) -> dict[str, str]:
    """Source: the format that the graders of MM-Vet, a script and an online one, read: question id to answer."""
    return dict(zip(records["sample_id"], records["prediction"], strict=True))


SUBMISSIONS: dict[str, Callable[[pd.DataFrame], Any]] = {
    "vqav2": _vqav2,
    "textvqa": _textvqa,
    "textvqa_ocr": _textvqa,
    "vizwiz": _vizwiz,
    "mmvet": _mmvet,
}
"""By data set: from records to what is written as JSON."""


def write_submission(data: str, records: pd.DataFrame, path: Path) -> None:
    """Writes the answers of a run for the benchmark's own evaluation, complete or not at all.

    Args:
        data: Name of the data set.
        records: Of the run; what could not be asked is not in them, and a server may ask for it.
        path: Of the JSON file.

    Raises:
        DataError: The data set is evaluated here, and has no such format.
    """
    if data not in SUBMISSIONS:
        raise DataError(f"data {data!r} has no format for submissions; those that have: {', '.join(SUBMISSIONS)}")
    with atomic_write(path) as file:
        file.write_text(json.dumps(SUBMISSIONS[data](records), ensure_ascii=False, indent=1), encoding="utf-8")
