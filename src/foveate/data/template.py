"""A template of a table of the user's own."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from foveate.core.errors import OutputError
from foveate.core.storage import atomic_write
from foveate.data.load import load_samples
from foveate.data.sample import VQASample

QUESTIONS = 3
_NAME = "questions.jsonl"


def write_template(folder: str | Path) -> Path:
    """Writes a table of three questions about scenes, with their images, to start a table of your own from.

    It evaluates as it is: `--data <folder>/questions.jsonl`. The format is in
    https://github.com/foveate/foveate/blob/main/docs/how_to/own_data.md.

    Args:
        folder: Folder of the table; it is made if it does not exist.

    Returns:
        The path of the table.

    Raises:
        OutputError: The folder has such a table or one of the images already, or cannot be written.
    """
    folder = Path(folder).expanduser()
    table = folder / _NAME
    chosen: dict[str, VQASample] = {}  # by kind
    for sample in load_samples("scenes", "test", limit=40):
        if sample.scoring == "exact" and sample.image_id not in [other.image_id for other in chosen.values()]:
            chosen.setdefault(sample.kind, sample)
    samples = list(chosen.values())[:QUESTIONS]
    images = [f"images/{sample.image_id}.png" for sample in samples]
    if taken := [path for path in (table, *(folder / image for image in images)) if path.exists()]:
        raise OutputError(f"{taken[0]} exists already: a template overwrites nothing; choose another folder")
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for sample, image in zip(samples, images, strict=True):
            sample.image.save(folder / image)
        with atomic_write(table) as path:
            rows = (_row(*pair) for pair in zip(samples, images, strict=True))
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error}; choose another folder") from error
    return table


def _row(sample: VQASample, image: str) -> dict[str, Any]:
    evidence = [_box(mask) for mask in sample.evidence]
    return {
        "image": image,
        "question": sample.question,
        "answer": sample.references[0],
        "kind": sample.kind,
        "id": sample.id,
        "evidence": evidence,
    }


def _box(mask: np.ndarray) -> list[int]:
    """Returns left, top, right and bottom, in pixels, of the box around a mask."""
    (top, left), (bottom, right) = np.argwhere(mask).min(0), np.argwhere(mask).max(0) + 1
    return [int(edge) for edge in (left, top, right, bottom)]
