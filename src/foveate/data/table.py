"""Tables of the user's own: questions about images or a video with reference answers, read from a file or folder.

The format, with examples, is in https://github.com/foveate/foveate/blob/main/docs/how_to/own_data.md.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from os.path import normpath
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple, cast
from urllib.parse import quote

import pyarrow as pa

from foveate.core.errors import DataError, shown
from foveate.core.progress import bar
from foveate.data.benchmark import (
    LONGEST_ID,
    RowQuestion,
    grouped,
    id_of,
    is_missing,
    malformed,
    option_of,
    problem_of,
    text_of,
    with_unique_ids,
)
from foveate.data.names import Table, TableMetric
from foveate.data.prompts import LETTERS
from foveate.data.sample import PLACEHOLDER, Box, Boxes, ImageSource, VQASample
from foveate.data.stored import MissingImage, StoredImage, content_hash, file_inside
from foveate.data.table_file import (
    ANSWER,
    CHOICES,
    EVIDENCE,
    ID,
    IMAGE,
    KIND,
    QUESTION,
    VIDEO,
    Rows,
    TableRow,
    read_table,
)
from foveate.data.video_file import VideoFile

_URL = re.compile(r"[a-z][a-z0-9+.-]*://|data:", re.IGNORECASE)
_LARGEST_WHOLE = 2**53  # floats above it leave out whole numbers
_FARTHEST = 10**6  # pixels between the corner of an image and an edge of a box
_AND = " // "  # between the names of several images; no normalised path holds it
Values = Mapping[str, Any]


class _RowImages(NamedTuple):
    """The images or the video of a row.

    Attributes:
        name: Name that all questions about the same images in the same order, or about the same video, share.
        sources: The images; none if they cannot be used.
        problem: Reason why they cannot be used; empty if they can.
        video: The video; None if the row has images.
    """

    name: str
    sources: tuple[StoredImage, ...] = ()
    problem: str = ""
    video: VideoFile | None = None


def table_samples(table: Table, split: str, limit: int | None = None) -> list[VQASample]:
    """Returns the first questions of a table; those about the same images follow each other.

    Images stay where they are. A malformed row gives a sample with a `problem`.

    Args:
        table: Name of the table.
        split: Its split, see `read_table`.
        limit: Number of questions; None means all.

    Raises:
        DataError: The table does not exist, cannot be read, has no rows, or lacks or misspells columns.
    """
    rows = read_table(table.location, split)
    votes = any(_holds_votes(row.values) for row in rows.rows)
    images = _images(rows)
    samples = (
        _sample(rows.rows[index], images[index], table.metric, votes)
        for index in bar(grouped([row.name for row in images]), "row", f"reading {table.label}")
    )
    return list(islice(with_unique_ids(samples), limit))


def files_of(table: Table, split: str) -> Iterator[Path]:
    """Yields the files that hold a table, its images and its videos.

    Raises:
        DataError: The table, or one of its images or videos, does not exist.
    """
    rows = read_table(table.location, split)
    yield rows.path
    for row in _images(rows):
        if row.problem:
            raise DataError(row.problem)
        yield from (source.file for source in row.sources if source.file is not None)
        if row.video:
            yield row.video.path


def _holds_votes(values: Values) -> bool:
    """Returns whether the answers are votes of several annotators: a list in which one is repeated."""
    answers, choices = values.get(ANSWER), values.get(CHOICES)
    given = [_whole(answer) for answer in answers] if isinstance(answers, list) else []
    texts = [str(answer).strip() for answer in given if isinstance(answer, str | int | float)]
    return len(set(texts)) < len(texts) and (is_missing(choices) or choices == [])


def _whole(value: Any) -> Any:  # noqa: ANN401 (as the table has it)
    """Returns a whole number as such: pandas turns those of a column with gaps into floats, and no model says 3.0."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST_WHOLE else value


def _images(rows: Rows) -> list[_RowImages]:
    """Returns the images or the video of each row."""
    found: list[_RowImages] = []
    for batch in rows.images.iter(batch_size=64):
        for cell in cast(pa.Table, batch).column(0).to_pylist():
            row, unnamed = rows.rows[len(found)], StoredImage(rows.images, len(found), "", rows.folder)
            given = row.values.get(IMAGE)
            shown_image, video = cell if given is None else given, row.values.get(VIDEO)
            column = IMAGE if is_missing(video) else VIDEO
            try:
                if column == VIDEO:
                    found.append(_row_video(video, shown_image, rows.folder))
                else:
                    found.append(_row_images(shown_image, unnamed))
            except DataError as error:
                why = f": {row.problem}" if row.problem else f", column {column!r}: {error}"
                found.append(_RowImages(f"row {row.number}", problem=f"row {row.number}{why}"))
    return found


def _row_images(cell: Any, unnamed: StoredImage) -> _RowImages:  # noqa: ANN401 (as the table has it)
    """Returns the images of a cell.

    Args:
        cell: The cell.
        unnamed: Its first image, without a name.

    Raises:
        DataError: The cell holds no images, or there is no such file.
    """
    cells = cell if isinstance(cell, list) and cell else [cell]
    sources: list[StoredImage] = []
    for item, value in enumerate(cells):
        try:
            path, name = _image_name(value)
            sources.append(replace(unnamed, name=name, item=item))
            if path:
                _ = sources[-1].file  # raises an error if there is none
        except DataError as error:
            raise DataError(f"image {item + 1} of {len(cells)}: {error}" if len(cells) > 1 else str(error)) from error
    return _RowImages(_short(_AND.join(source.name for source in sources)), tuple(sources))


def _row_video(cell: Any, image: Any, folder: Path) -> _RowImages:  # noqa: ANN401 (as the table has it)
    """Returns the video of a cell.

    Args:
        cell: The cell.
        image: The cell of the row's image.
        folder: Folder of the table.

    Raises:
        DataError: The row has an image, too, the cell is not the path of one video, or there is no such file.
    """
    if not (is_missing(image) or image in ([], [None])):
        raise DataError(f"the row has an {IMAGE}, too: a question is about images or about a video; leave one empty")
    path = cell.get("path") if isinstance(cell, dict) and not cell.get("bytes") else cell
    if not isinstance(path, str):
        raise DataError(f"it is {shown(path)}: expected the path of one video in the table's folder")
    if _URL.match(path):
        raise DataError(
            f"it is {shown(path)}, and nothing is read from the network: download it into the table's folder"
        )
    name = _short(normpath(path))
    return _RowImages(name, video=VideoFile(file_inside(folder, path, f"video {shown(name)}"), name))


def _short(name: str) -> str:
    """Returns a name of images, or its hash if it is too long for the name of a file."""
    escaped = quote(name, safe="", errors="surrogatepass")
    return name if len(escaped) <= LONGEST_ID else content_hash(escaped.encode())


def _image_name(cell: Any) -> tuple[str, str]:  # noqa: ANN401 (as the table has it)
    """Returns the path of an image, empty if the cell holds its bytes, and the name that all questions about it share.

    Raises:
        DataError: The cell is not one image.
    """
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (None, cell)
    if data or isinstance(path, bytes):
        content = data or path
        if not isinstance(content, bytes):
            raise DataError(f"its bytes are {shown(content)}: JSON has no bytes; give a path, or use a parquet file")
        return "", content_hash(content)
    if is_missing(path) or path == []:
        raise DataError(
            f"it is empty: give the path of an image in the table's folder, or that of a video in column {VIDEO!r}; "
            "each question needs one"
        )
    if not isinstance(path, str):
        raise DataError(f"it is {shown(path)}: expected the path of an image in the table's folder")
    if _URL.match(path):
        raise DataError(
            f"it is {shown(path)}, and nothing is read from the network: download the image into the table's folder, "
            "and give its path from there"
        )
    return path, _short(normpath(path))


def _sample(row: TableRow, images: _RowImages, metric: TableMetric | None, votes: bool) -> VQASample:
    """Returns the question of a row.

    Args:
        row: The row.
        images: Its images.
        metric: Rule that scores the answers; None means that the answers decide.
        votes: Whether answers of the table are votes of several annotators.
    """
    name = f"row-{row.number:06d}"
    if images.problem:
        missing = (MissingImage(images.name),)
        return VQASample(name, images.name, missing, "", "", (), "none", problem=images.problem)
    try:
        question = _question(row.values, images.sources, metric, votes)
        if reason := malformed(question) or problem_of(question, answered=True):
            raise DataError(reason)
        _check_placeholders(question, len(images.sources))
    except DataError as error:
        why = f"row {row.number}: {error}"
        return VQASample(name, images.name, images.sources, "", "", (), "none", problem=why)
    fields = {**vars(question), "id": question.id or name}
    return VQASample(image_id=images.name, sources=images.sources, video=images.video, **fields)


def _check_placeholders(question: RowQuestion, images: int) -> None:
    """Checks that a question about several images has a placeholder for each, or none; for one image it is a text.

    Raises:
        DataError: There is another number of placeholders.
    """
    found = sum(text.count(PLACEHOLDER) for text in (question.question, *question.options))
    if images > 1 and found not in (0, images):
        raise DataError(
            f"column {QUESTION!r} has {PLACEHOLDER} {found} times for {images} images: write it once for each image, "
            "in their order, or leave it out, and all images stand before the question"
        )


def _question(values: Values, sources: Sequence[ImageSource], metric: TableMetric | None, votes: bool) -> RowQuestion:
    """Returns the question of a row.

    Raises:
        DataError: A cell is missing or malformed; the message names the column.
    """
    for column in (QUESTION, ANSWER):
        if column not in values or is_missing(values[column]) or values[column] == []:
            raise DataError(f"column {column!r} is empty: expected {_EXPECTED[column]}")
    name, kind = (id_of({column: _whole(values.get(column))}, column) for column in (ID, KIND))
    things = _things(values.get(EVIDENCE), sources)
    text = text_of(values, QUESTION)
    if options := _options(values.get(CHOICES)):
        if metric == "vqa":
            raise DataError(f"column {CHOICES!r} is given, but 'vqa' scores the answers of annotators: use 'choice'")
        return RowQuestion(
            name, kind, text, _letter(values[ANSWER], options), metric or "choice", "letter", options, things=things
        )
    if metric == "choice":
        raise DataError(f"column {CHOICES!r} is empty: expected a list of texts, because the metric is 'choice'")
    references = _references(values[ANSWER])
    if (scoring := metric or ("vqa" if votes else "exact")) == "vqa" and len(references) < 2:
        raise DataError(
            f"column {ANSWER!r} is {shown(values[ANSWER])}: expected a list of the answers of several annotators, "
            "because the metric is 'vqa'; or name another metric: questions.jsonl:exact"
        )
    return RowQuestion(name, kind, text, references, scoring, "short", things=things)


_EXPECTED = {QUESTION: "a text", ANSWER: "a text, or a list of texts of which each counts as correct"}


def _references(value: Any) -> tuple[str, ...]:  # noqa: ANN401 (as the table has it)
    """Returns the reference answers of a cell: a text or a number, or a list of them."""
    try:
        return tuple(option_of(_whole(answer)) for answer in (value if isinstance(value, list) else [value]))
    except DataError as error:
        raise DataError(f"column {ANSWER!r} is {shown(value)}: expected {_EXPECTED[ANSWER]}") from error


def _options(value: Any) -> tuple[str, ...]:  # noqa: ANN401 (as the table has it)
    """Returns the options of a multiple-choice question; none if the cell is empty."""
    if is_missing(value) or value == []:
        return ()
    if not isinstance(value, list) or not 2 <= len(value) <= len(LETTERS):
        raise DataError(f"column {CHOICES!r} is {shown(value)}: expected a list of 2 to {len(LETTERS)} texts")
    try:
        return tuple(option_of(_whole(option)) for option in value)
    except DataError as error:
        raise DataError(f"column {CHOICES!r}: {error}") from error


def _letter(value: Any, options: tuple[str, ...]) -> tuple[str, str]:  # noqa: ANN401 (as the table has it)
    """Returns the letter and the text of the correct option."""
    letters = ascii_uppercase[: len(options)]
    letter = value.strip().upper() if isinstance(value, str) else ""
    if len(letter) != 1 or letter not in letters:
        raise DataError(
            f"column {ANSWER!r} is {shown(value)}: expected the letter of the correct one of its choices, one of "
            f"{', '.join(letters)}"
        )
    return letter, options[letters.index(letter)]


def _things(value: Any, sources: Sequence[ImageSource]) -> Boxes:  # noqa: ANN401 (as the table has it)
    """Returns the evidence of a cell: one box in pixels per thing, or a single box."""
    if is_missing(value) or value == []:
        return Boxes()
    if not sources:
        raise DataError(
            f"column {EVIDENCE!r} has boxes, and the question is about a video: boxes do not say in which frames they "
            "lie; leave the cell empty"
        )
    if len(sources) > 1:
        raise DataError(
            f"column {EVIDENCE!r} has boxes, and the question is about {len(sources)} images: boxes do not say in "
            "which of them they lie; leave the cell empty"
        )
    several = isinstance(value, list) and all(isinstance(box, list) for box in value)
    return Boxes(tuple(_shares(box, sources[0].size) for box in (value if several else [value])))


def _shares(box: Any, size: tuple[int, int]) -> Box:  # noqa: ANN401 (as the table has it)
    """Returns a box as shares of the image's width and height, clipped at its edges."""
    across, down = size
    if isinstance(box, list) and len(box) == 4 and all(type(edge) in (int, float) for edge in box):
        left, top, right, bottom = box
        inside = left < across and top < down and right > 0 and bottom > 0
        if inside and left < right and top < bottom and max(map(abs, box)) <= _FARTHEST:
            return max(left, 0) / across, max(top, 0) / down, min(right / across, 1.0), min(bottom / down, 1.0)
    raise DataError(
        f"column {EVIDENCE!r} has the box {shown(box)}: expected [left, top, right, bottom] in pixels of a box that "
        f"overlaps the image of {across} x {down} pixels"
    )
