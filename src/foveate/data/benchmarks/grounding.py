"""Benchmarks that ask for the box of a described object; the box is also the evidence."""

import math
import re
from collections.abc import Iterator

from foveate.core.errors import DataError, shown
from foveate.data.benchmark import Benchmark, Row, RowQuestion, id_of
from foveate.data.sample import Box, Boxes
from foveate.data.stored import Part


def _parse_refcoco(row: Row) -> Iterator[RowQuestion]:
    """Yields one question per description; `bbox` is left, top, width and height in pixels."""
    box = _shares(row)
    reference = "[" + ", ".join(f"{share:.2f}" for share in box) + "]"
    exact = "[" + ", ".join(f"{share:.6f}" for share in box) + "]"
    descriptions = [row["answer"]] if isinstance(row["answer"], str) else list(row["answer"] or ())
    if not descriptions:
        raise DataError("answer is empty, expected descriptions of the object in the box")
    for text in descriptions:
        yield RowQuestion(
            id_of(row, "question_id"), "", str(text).strip(), (reference, exact), "box", "box", things=Boxes((box,))
        )


def _shares(row: Row) -> Box:
    """Returns the box as shares of the image's width and height, clipped at its right and bottom edges."""
    left, top, width, height = (float(value) for value in row["bbox"])
    across, down = row["pixels"]
    overlaps = 0 < left + width and left < across and 0 < top + height and top < down
    if not (all(map(math.isfinite, (left, top, width, height))) and width > 0 and height > 0 and overlaps):
        raise DataError(
            f"bbox is {shown(list(row['bbox']))}, expected left, top, width and height, the last two positive, of "
            f"a box that overlaps the image of {across} x {down} pixels"
        )
    return left / across, top / down, min((left + width) / across, 1.0), min((top + height) / down, 1.0)


def _image_id(file_name: str) -> str:
    """Returns the image of an annotation: COCO_train2014_000000581857 for COCO_train2014_000000581857_16.jpg."""
    return re.sub(r"(_\d{12})_\d+$", r"\1", str(file_name).rsplit(".", 1)[0])


def _benchmark(name: str, repo: str, splits: tuple[str, ...], source: str) -> Benchmark:
    return Benchmark(
        name=name,
        repo=repo,
        parts={split: Part(split) for split in splits},
        split="val",
        columns=("question_id", "answer", "bbox", "file_name"),
        parse_row=_parse_refcoco,
        image_id="file_name",
        image_id_of=_image_id,
        sized=True,
        source=source,
    )


_YU, _MAO = "Yu et al. 2016, arXiv 1608.00272v3", "Mao et al. 2016, arXiv 1511.02283v3"
REFCOCO = _benchmark("refcoco", "lmms-lab/RefCOCO", ("val", "test", "testA", "testB"), _YU)
REFCOCO_PLUS = _benchmark("refcoco+", "lmms-lab/RefCOCOplus", ("val", "testA", "testB"), _YU)
REFCOCOG = _benchmark("refcocog", "lmms-lab/RefCOCOg", ("val", "test"), _MAO)
