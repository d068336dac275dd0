"""A benchmark of captions: do they name objects that the image does not show?"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from foveate.core.errors import DataError, OutputError, message_of
from foveate.core.storage import atomic_write
from foveate.data.benchmark import Benchmark, Row, RowQuestion, text_of, texts_of
from foveate.data.coco import mentioned_objects
from foveate.data.stored import Part

Annotations = dict[str, Any]
NOTHING = "no object"
"""Reference of an image without objects; no class has this name."""
_BATCH = 100
_SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("answer", pa.list_(pa.string())),
        ("instance", pa.list_(pa.string())),
    ]
)
_PROMPT = "Please describe this image in detail."


def _parse_chair(row: Row) -> Iterator[RowQuestion]:
    """Yields the request for a caption; its references are the objects of the annotations and of the true captions."""
    name = text_of(row, "question_id").rsplit(".", 1)[0]
    named = [found for caption in texts_of(row, "answer") for found in mentioned_objects(caption)]
    objects = sorted({*texts_of(row, "instance"), *named}) or [NOTHING]
    yield RowQuestion(name, "", _PROMPT, tuple(objects), "chair", "free")


def write_chair_table(
    instances: str | Path, captions: str | Path, images: str | Path, out: str | Path, names: Sequence[str] = ()
) -> Path:
    """Writes the table of the benchmark from COCO's annotation files.

    The metric needs the annotated objects, which the captions on the hub do not have.

    Args:
        instances: Path of `instances_val2014.json` (or of another split).
        captions: Path of `captions_val2014.json`.
        images: Folder of the images.
        out: Path of the parquet file, which holds the images.
        names: Names of the files to use, such as the 500 that a paper has drawn; all by default.

    Returns:
        The path of the table.

    Raises:
        DataError: A file cannot be read, or lacks one of `names`.
        OutputError: The table cannot be written.
    """
    folder, path = Path(images).expanduser(), Path(out).expanduser()
    rows = _chair_rows(_annotations(instances), _annotations(captions), folder, names)
    try:
        with atomic_write(path) as file, pq.ParquetWriter(file, _SCHEMA) as writer:
            for start in range(0, len(rows), _BATCH):  # the images of all rows may not fit into memory
                batch = [row | {"image": _encoded(folder / row["question_id"])} for row in rows[start : start + _BATCH]]
                writer.write_table(pa.Table.from_pylist(batch, schema=_SCHEMA))
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {message_of(error)}") from error
    return path


def _encoded(file: Path) -> dict[str, Any]:
    return {"bytes": file.read_bytes(), "path": file.name}


def _chair_rows(
    instances: Annotations, captions: Annotations, folder: Path, names: Sequence[str]
) -> list[dict[str, Any]]:
    labels = {one["id"]: one["name"] for one in instances["categories"]}
    objects, answers = defaultdict(set), defaultdict(list)
    for one in instances["annotations"]:
        objects[one["image_id"]].add(labels[one["category_id"]])
    for one in captions["annotations"]:
        answers[one["image_id"]].append(one["caption"])
    numbers = {one["file_name"]: one["id"] for one in captions["images"]}
    for name in names or numbers:
        if name not in numbers:
            raise DataError(f"no image {name!r} has captions: expected names such as {next(iter(numbers), '')!r}")
        if Path(name).name != name or not (folder / name).is_file():
            raise DataError(f"there is no image {name!r} in {folder}")
    return [
        {
            "question_id": name,
            "answer": answers[numbers[name]],
            "instance": sorted(objects[numbers[name]]),
        }
        for name in names or numbers
    ]


def _annotations(path: str | Path) -> Annotations:
    """Returns an annotation file of COCO."""
    try:
        found = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        if not {"images", "annotations"} <= set(found):
            raise ValueError("it has no images and annotations")
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read as annotations of COCO: {message_of(error)}") from error
    return found


CHAIR = Benchmark(
    name="chair",
    repo="lmms-lab/COCO-Caption",
    parts={"val": Part("val")},
    split="val",
    columns=("question_id", "answer", "instance"),
    parse_row=_parse_chair,
    image_id="question_id",
    answer_tokens=512,
    source="Rohrbach et al. 2018, arXiv 1809.02156",
)
"""Captions of COCO's images. Its tables have a column `instance` with the annotated classes (`write_chair_table`)."""
