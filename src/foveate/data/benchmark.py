"""Definition of a benchmark: where its tables are, and how a row is parsed into questions."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import quote

import pyarrow as pa
from datasets import Dataset

from foveate.core.errors import DataError, message_of, shown
from foveate.core.progress import bar
from foveate.data.sample import Boxes, Evidence, Form, ImageSource, Scoring, VQASample
from foveate.data.stored import (
    MissingImage,
    Part,
    StoredImage,
    cells_of,
    check_columns,
    content_names,
    has_image,
    image_column,
    load_table,
)
from foveate.data.video import VideoSource

Row = Mapping[str, Any]
LONGEST_TEXT = 1_000_000  # characters; far beyond the context of any model
LONGEST_ID = 200  # characters of an id, escaped for a file name
_ROWS = 32  # read at once, with all cells, such as images in unused columns; more are not faster


@dataclass(frozen=True)
class RowQuestion:
    """A question of a row, without its image; fields as in `VQASample`. The row number replaces an empty `id`."""

    id: str
    kind: str
    question: str
    references: tuple[str, ...]
    scoring: Scoring
    form: Form
    options: tuple[str, ...] = ()
    hint: str = ""
    things: Evidence = Boxes()


class Pixels(NamedTuple):
    """Width and height of a row's image in pixels."""

    width: int
    height: int


@dataclass(frozen=True)
class Benchmark:
    """A data set of questions about images or videos.

    Attributes:
        name: Name on the command line.
        repo: Hub ID of the standard copy.
        parts: Location of each split.
        split: Split that results are usually reported for.
        columns: Required columns that `parse_row` reads.
        parse_row: Function from a row to its questions.
        image_id: Column that names the image of a row, or several that name it together; None means that no rows share
            an image.
        image_id_of: Function from a value of that column to the name of the image.
        by_content: Whether rows with the same encoded image share it; for tables that do not name their images.
        image: Column of images.
        more_images: Further columns of images, if a question may be about several.
        images_of_row: Function from a row to the columns of its images in their order; None means `image` alone.
        images: Location of the images of each split if they have a table of their own, whose column `id` matches
            `image_id`.
        text_only: Whether rows without an image are text-only questions; else their image is missing.
        sized: Whether `parse_row` needs the size of the image; rows then have an entry `pixels` of type `Pixels`.
        video: Function from a row and the folder of its tables to the video; None means that questions are about
            images. Rows then have an entry `video_source`, the video.
        answer_tokens: Maximum number of tokens of an answer.
        source: Publication of the benchmark.
    """

    name: str
    repo: str
    parts: Mapping[str, Part]
    split: str
    columns: tuple[str, ...]
    parse_row: Callable[[Row], Iterator[RowQuestion]]
    image_id: str | tuple[str, ...] | None = None
    image_id_of: Callable[[Any], str] = str
    by_content: bool = False
    image: str = "image"
    more_images: tuple[str, ...] = ()
    images_of_row: Callable[[Row], Sequence[str]] | None = None
    images: Mapping[str, Part] | None = None
    text_only: bool = False
    sized: bool = False
    video: Callable[[Row, Path], VideoSource] | None = None
    answer_tokens: int = 32
    source: str = ""

    @property
    def image_ids(self) -> tuple[str, ...]:
        """The columns that name the image of a row together."""
        return (self.image_id,) if isinstance(self.image_id, str) else self.image_id or ()

    def samples(self, split: str, limit: int | None = None, location: str | None = None) -> list[VQASample]:
        """Returns the first questions of a split; those about an image follow each other.

        Images stay in the table. A malformed row gives a sample with a `problem`.

        Args:
            split: A key of `parts`.
            limit: Number of questions; None means all.
            location: Path or hub ID of the tables, see `load_table`.

        Raises:
            DataError: The split is unknown, its table is missing or empty or lacks columns, or the benchmark has videos
                and the location is no path.
        """
        if split not in self.parts:
            raise DataError(f"split {split!r} of {self.name!r} is unknown; known: {', '.join(self.parts)}")
        if self.video and (location is None or not Path(location).expanduser().exists()):
            raise DataError(
                f"data {self.name!r}: videos are read from a folder, but its location is {location}: download "
                f"{self.repo}, unpack its archives where they are, and give the folder: --data {self.name}:FOLDER"
            )
        part = self.parts[split]
        table = load_table(self.name, self.repo, location, part)
        images = _ImageIndex(self, table, split, location)
        columns = [*self.columns, *self.image_ids, *images.columns]
        check_columns(self.name, table, list(dict.fromkeys(columns)), self.repo)
        # in Arrow format, because `datasets` would decode images and sounds in unused columns
        questions = table.remove_columns(images.columns).with_format("arrow")
        rows = bar(grouped(images.names), "row", f"reading {self.name}")
        cells = _cells(questions, rows)
        samples = (sample for row, values in cells for sample in self._samples_of(row, values, images, part))
        return list(islice(with_unique_ids(samples), limit))

    def _samples_of(self, row: int, values: dict[str, Any], images: "_ImageIndex", part: Part) -> Iterator[VQASample]:
        sources = images.sources(row, values)
        image_id, name = images.names[row], f"{images.split}-{row:06d}"
        problem, parsed, video = "", [], None
        try:
            images.check(values)
            if self.video:
                video = values["video_source"] = self.video(values, images.folder)
            if self.sized and sources:
                values["pixels"] = Pixels(*sources[0].size)
            parsed = list(self.parse_row(values))
            if reason := next(filter(None, map(malformed, parsed)), ""):
                problem, parsed = reason, []
        except DataError as error:
            problem = str(error)
        except Exception as error:  # a row may hold anything
            problem = f"the row does not have the format of {self.repo}: {type(error).__name__}: {message_of(error)}"
        if problem:
            yield VQASample(name, image_id, sources, "", "", (), "none", problem=problem)
        for question in parsed:
            fields = {**vars(question), "id": question.id or name}
            if not part.answered:
                fields |= {"references": (), "scoring": "none"}
            reason = problem_of(question, part.answered)
            yield VQASample(image_id=image_id, sources=sources, video=video, problem=reason, **fields)


class _ImageIndex:
    """The image of each row of a table."""

    def __init__(self, benchmark: Benchmark, table: Dataset, split: str, location: str | None) -> None:
        self.split = split
        separate = bool(benchmark.images) and benchmark.image not in table.column_names
        self.columns = [] if separate or benchmark.video else [benchmark.image, *benchmark.more_images]
        path = Path(location or ".").expanduser()
        self.folder = path.parent if path.is_file() else path
        self.benchmark = benchmark
        present = [name for name in self.columns if name in table.column_names]
        own = [f"{split}-{row:06d}" for row in range(len(table))]
        self.names = [name or unique for name, unique in zip(self._shared(table) or own, own, strict=True)]
        self.text_only = [False] * len(table)
        self._rows: Mapping[str, int] | None = None
        self._images = {name: image_column(table, name) for name in present}
        if benchmark.text_only and benchmark.image in present:
            self.text_only = [not shown for shown in has_image(table, benchmark.image)]
        if separate:
            part = (benchmark.images or {})[split]
            images = load_table(benchmark.name, benchmark.repo, location, part)
            check_columns(benchmark.name, images, ["id", benchmark.image], benchmark.repo)
            self._rows = {str(name): row for row, name in enumerate(cells_of(images, "id"))}
            self._images = {benchmark.image: image_column(images, benchmark.image)}

    def _shared(self, table: Dataset) -> list[str]:
        """Returns the name of each row's image, empty where it has none; an empty list if no rows share an image."""
        if self.benchmark.by_content and self.benchmark.image in table.column_names:
            return content_names(table, self.benchmark.image)
        keys = [name for name in self.benchmark.image_ids if name in table.column_names]
        return [self._image_name(*values) for values in zip(*(cells_of(table, key) for key in keys), strict=True)]

    def check(self, row: Row) -> None:
        """Raises `DataError` if the row does not name its image."""
        for column in self.benchmark.image_ids:
            if column in row and not self._image_name(row[column]):
                raise DataError(f"{column} is {shown(row[column])}, which names no image")

    def _image_name(self, *values: Any) -> str:  # noqa: ANN401 (as the table has it)
        """Returns the image that values name; empty if none, because rows without an image must not share one."""
        try:
            parts = ["" if value is None else self.benchmark.image_id_of(value).strip() for value in values]
        except (TypeError, ValueError, OverflowError):
            return ""
        name = "_".join(parts) if all(parts) else ""
        return name if len(quote(name, safe="")) <= LONGEST_ID else ""

    def sources(self, row: int, values: Row) -> tuple[ImageSource, ...]:
        """Returns the images of a row, of a cell that holds several the first; none for a text-only question.

        Args:
            row: Number of the row.
            values: Its cells.
        """
        if self.text_only[row] or self.benchmark.video:
            return ()
        name, choose = self.names[row], self.benchmark.images_of_row
        location = row if self._rows is None else self._rows.get(name)
        if location is None:
            return (MissingImage(name),)
        columns = choose(values) if choose else (self.benchmark.image,)
        return tuple(StoredImage(self._images[column], location, name, self.folder) for column in columns)


def _cells(table: Dataset, rows: Iterable[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the numbers of rows, each with its cells, of a table in Arrow format."""
    left = iter(rows)
    while some := list(islice(left, _ROWS)):
        yield from zip(some, cast(pa.Table, table[some]).to_pylist(), strict=True)


def grouped(images: Sequence[str]) -> list[int]:
    """Returns the row numbers grouped by image; images are in the order of their first rows.

    Args:
        images: Name of each row's image.
    """
    first: dict[str, int] = {}
    for row, name in enumerate(images):
        first.setdefault(name, row)
    return sorted(range(len(images)), key=lambda row: (first[images[row]], row))


def with_unique_ids(samples: Iterable[VQASample]) -> Iterator[VQASample]:
    """Yields questions whose ids are unique: the second "a" becomes "a#2"."""
    names: Counter[str] = Counter()
    for sample in samples:
        name = sample.id
        while names[name]:  # a row may already have the name that a repeated one would get
            names[sample.id] += 1
            name = f"{sample.id}#{names[sample.id]}"
        names[name] += 1
        yield replace(sample, id=name) if name != sample.id else sample


def is_missing(value: Any) -> bool:  # noqa: ANN401 (as the table has it)
    """Returns whether a cell is null, blank, or NaN, which tables made with pandas have instead of null."""
    if isinstance(value, str):
        return value.strip().lower() in ("", "nan")
    return value is None or (isinstance(value, float) and math.isnan(value))


def text_of(row: Row, column: str) -> str:
    """Returns a required text without surrounding blanks."""
    value = row[column]
    if is_missing(value) or not isinstance(value, str):
        raise DataError(f"{column} is {shown(value)}, expected a text")
    return value.strip()


def optional_text(row: Row, column: str) -> str:
    """Returns a text without surrounding blanks; empty if the cell is missing or not a text."""
    return text_of(row, column) if isinstance(row.get(column), str) and not is_missing(row[column]) else ""


def texts_of(row: Row, column: str) -> tuple[str, ...]:
    """Returns a list of texts, unchanged; an empty one if the cell is missing."""
    value = row.get(column)
    if value is not None and not isinstance(value, (list, tuple)):
        raise DataError(f"{column} is {shown(value)}, expected a list of texts")
    if any(text is None for text in value or ()):
        raise DataError(f"{column} is {shown(value)}, expected no empty entries")
    return tuple(str(text) for text in value or ())


def id_of(row: Row, column: str) -> str:
    """Returns the text or number that names a question or its kind; empty if the cell is missing."""
    value = row.get(column)
    return "" if is_missing(value) else str(value).strip()


def option_of(value: Any) -> str:  # noqa: ANN401 (as the table has it)
    """Returns an option, which may be a number, as text without surrounding blanks."""
    if is_missing(value) or isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"an option is {shown(value)}, expected a text")
    return str(value).strip()


def malformed(question: RowQuestion) -> str:
    """Returns why a question cannot be stored; empty if it can."""
    if len(quote(question.id, safe="")) > LONGEST_ID:
        return f"its id {shown(question.id)} is too long: at most {LONGEST_ID} characters, escaped as in a URL"
    for text in (question.kind, question.question, question.hint, *question.references, *question.options):
        if not isinstance(text, str):
            return f"it holds {shown(text)}, expected a text"
        if len(text) > LONGEST_TEXT:
            return f"its text {shown(text)} has {len(text):,} characters, expected at most {LONGEST_TEXT:,}"
    return ""


def problem_of(question: RowQuestion, answered: bool) -> str:
    """Returns why a question cannot be asked or scored; empty if it can."""
    if not question.question:
        return "it has no question"
    if answered and not any(reference.strip() for reference in question.references):
        return (
            f"its list of answers is {shown(list(question.references))}: expected at least one in a split with answers"
        )
    return ""
