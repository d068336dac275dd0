"""What a benchmark is: where its tables are, and how a row becomes questions."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import quote

import pyarrow as pa
from datasets import Dataset

from foveate.core.errors import DataError, said, shown
from foveate.core.progress import bar
from foveate.data.sample import Boxes, Evidence, Form, ImageSource, Scoring, VQASample
from foveate.data.stored import Missing, Part, Stored, checked, encoded, filled, table_of

Row = Mapping[str, Any]
LONGEST_TEXT = 1_000_000  # characters; far beyond the context of any model
LONGEST_ID = 200  # of an id as it stands in the name of a file


@dataclass(frozen=True)
class RowQuestion:
    """A question of a row, without its image; fields as in `VQASample`, an empty `id` means the row's number."""

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
    """Width and height of a row's image, for what is given in pixels."""

    width: int
    height: int


@dataclass(frozen=True)
class Benchmark:
    """A data set of questions about images.

    Attributes:
        name: As on the command line.
        repo: Hub id of the standard copy.
        parts: By split: where it is.
        split: The one that results are usually given for.
        columns: Those that `ask` reads, apart from optional ones.
        ask: From a row to its questions.
        image_id: Column that says which rows share an image; None means that none do.
        image_id_of: From a value of that column to the image.
        image: Column of images.
        images: Where the images are if not in the same table; there `id` is what `image_id` is here.
        text_only: Whether rows without an image are questions about text alone; else their image is missing.
        sized: Whether `ask` needs the size of the image: then rows have a `pixels` of type `Pixels`.
        answer_tokens: Tokens that the longest answer may have.
    """

    name: str
    repo: str
    parts: Mapping[str, Part]
    split: str
    columns: tuple[str, ...]
    ask: Callable[[Row], Iterator[RowQuestion]]
    image_id: str | None = None
    image_id_of: Callable[[Any], str] = str
    image: str = "image"
    images: Mapping[str, Part] | None = None
    text_only: bool = False
    sized: bool = False
    answer_tokens: int = 32

    def samples(self, split: str, limit: int | None = None, location: str | None = None) -> list[VQASample]:
        """Returns the first questions of a split; those about an image follow each other.

        Images are left in the table. What is wrong with a row becomes the sample's `problem`.

        Args:
            split: A key of `parts`.
            limit: Number of questions; None means all.
            location: See `table_of`.

        Raises:
            DataError: The split is unknown, or its table is not there, empty or of other columns.
        """
        if split not in self.parts:
            raise DataError(f"split {split!r} of {self.name!r} is unknown; known: {', '.join(self.parts)}")
        part = self.parts[split]
        table = table_of(self.name, self.repo, location, part)
        gallery = _Gallery(self, table, split, location)
        columns = [*self.columns, *([self.image_id] if self.image_id else []), *gallery.columns]
        checked(self.name, table, list(dict.fromkeys(columns)), self.repo)
        # as Arrow has them: `datasets` would decode images and sounds in columns that nobody reads
        questions = table.remove_columns(gallery.columns).with_format("arrow")
        samples: list[VQASample] = []
        names: Counter[str] = Counter()
        for row in bar(gallery.order(), "row", f"reading {self.name}"):
            for sample in self._of(row, questions, gallery, part):
                name = sample.id
                while names[name]:  # a row may be called what another one is called the second time
                    names[sample.id] += 1
                    name = f"{sample.id}#{names[sample.id]}"
                names[name] += 1
                samples.append(replace(sample, id=name) if name != sample.id else sample)
            if limit is not None and len(samples) >= limit:
                break
        return samples[:limit]

    def _of(self, row: int, questions: Dataset, gallery: "_Gallery", part: Part) -> Iterator[VQASample]:
        facts: dict[str, Any] = cast(pa.Table, questions[row]).to_pylist()[0]
        source = gallery.source(row)
        image_id, name = gallery.names[row], f"{gallery.split}-{row:06d}"
        problem, asked = "", []
        try:
            gallery.check(facts)
            if self.sized and source is not None:
                facts["pixels"] = Pixels(*source.size)
            asked = list(self.ask(facts))
            if wrong := next(filter(None, map(_malformed, asked)), ""):
                problem, asked = wrong, []
        except DataError as error:
            problem = str(error)
        except Exception as error:  # a row may hold anything
            problem = f"the row is not as {self.repo} has it: {type(error).__name__}: {said(error)}"
        if problem:
            yield VQASample(name, image_id, source, "", "", (), "none", problem=problem)
        for one in asked:
            wrong = _problem(one, part.answered)
            given = {**vars(one), "id": one.id or name}
            if not part.answered:
                given |= {"references": (), "scoring": "none"}
            yield VQASample(image_id=image_id, source=source, problem=wrong, **given)


class _Gallery:
    """Which image belongs to which row."""

    def __init__(self, benchmark: Benchmark, table: Dataset, split: str, location: str | None) -> None:
        self.split = split
        self.columns = [] if benchmark.images and benchmark.image not in table.column_names else [benchmark.image]
        path = Path(location or ".").expanduser()
        self.folder = path.parent if path.is_file() else path
        self.benchmark = benchmark
        key = benchmark.image_id if benchmark.image_id in table.column_names else ""
        own = [f"{split}-{row:06d}" for row in range(len(table))]
        named = [self._named(value) for value in table[key]] if key else own
        self.names = [name or alone for name, alone in zip(named, own, strict=True)]
        self.text_only = [False] * len(table)
        self._rows: Mapping[str, int] | None = None
        if self.columns and benchmark.image in table.column_names:
            self._images = encoded(table, benchmark.image)
            if benchmark.text_only:
                self.text_only = [not there for there in filled(table, benchmark.image)]
        elif benchmark.images and not self.columns:
            apart = table_of(benchmark.name, benchmark.repo, location, benchmark.images[split])
            checked(benchmark.name, apart, ["id", benchmark.image], benchmark.repo)
            self._rows = {str(name): row for row, name in enumerate(apart["id"])}
            self._images = encoded(apart, benchmark.image)

    def check(self, row: Row) -> None:
        """Raises `DataError` if the row does not say which image it is about."""
        column = self.benchmark.image_id or ""
        if column in row and not self._named(row[column]):
            raise DataError(f"{column} is {shown(row[column])}, which names no image")

    def _named(self, value: Any) -> str:  # noqa: ANN401 (as the table has it)
        """Returns which image a value means; empty if it means none, for rows without one must not share one."""
        try:
            name = "" if value is None else self.benchmark.image_id_of(value).strip()
        except (TypeError, ValueError, OverflowError):
            return ""
        return name if len(quote(name, safe="")) <= LONGEST_ID else ""

    def order(self) -> list[int]:
        """Returns the rows, those of one image after each other, images by their first row."""
        first: dict[str, int] = {}
        for row, name in enumerate(self.names):
            first.setdefault(name, row)
        return sorted(range(len(self.names)), key=lambda row: (first[self.names[row]], row))

    def source(self, row: int) -> ImageSource | None:
        """Returns the image of a row; None where it is a question about text alone."""
        if self.text_only[row]:
            return None
        name = self.names[row]
        location = row if self._rows is None else self._rows.get(name)
        return Missing(name) if location is None else Stored(self._images, location, name, self.folder)


def missing(value: Any) -> bool:  # noqa: ANN401 (as the table has it)
    """Returns whether a cell holds nothing: null, a blank text, or nan, which tables made with pandas have instead."""
    if isinstance(value, str):
        return value.strip().lower() in ("", "nan")
    return value is None or (isinstance(value, float) and math.isnan(value))


def text_of(row: Row, column: str) -> str:
    """Returns a text that must be there, without blanks around it."""
    value = row[column]
    if missing(value) or not isinstance(value, str):
        raise DataError(f"{column} is {shown(value)}, expected a text")
    return value.strip()


def optional(row: Row, column: str) -> str:
    """Returns a text without blanks around it; empty if it is missing, or no text."""
    return text_of(row, column) if isinstance(row.get(column), str) and not missing(row[column]) else ""


def id_of(row: Row, column: str) -> str:
    """Returns a text or number that names a question or its kind; empty if it is missing."""
    value = row.get(column)
    return "" if missing(value) else str(value).strip()


def option_of(value: Any) -> str:  # noqa: ANN401 (as the table has it)
    """Returns an option to choose from, without blanks around it; tables have numbers among them."""
    if missing(value) or isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"an option is {shown(value)}, expected a text")
    return str(value).strip()


def _malformed(asked: RowQuestion) -> str:
    """Returns what is wrong with a question that cannot be written down as it is; empty if nothing is."""
    if len(quote(asked.id, safe="")) > LONGEST_ID:
        return f"its id {shown(asked.id)} is too long: at most {LONGEST_ID} characters, escaped as in a URL"
    for text in (asked.kind, asked.question, asked.hint, *asked.references, *asked.options):
        if not isinstance(text, str):
            return f"it holds {shown(text)}, expected a text"
        if len(text) > LONGEST_TEXT:
            return f"a text of it, {shown(text)}, has {len(text):,} characters, expected at most {LONGEST_TEXT:,}"
    return ""


def _problem(asked: RowQuestion, answered: bool) -> str:
    if not asked.question:
        return "it has no question"
    if answered and not any(reference.strip() for reference in asked.references):
        return f"its list of answers is {shown(list(asked.references))}: at least one is needed in a split with answers"
    return ""
