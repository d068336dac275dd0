"""Reading of a table of the user's own: rows of a jsonl, csv or parquet file, or of a folder of `save_to_disk`."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, List, Value

from foveate.core.documents import OWN_DATA, page
from foveate.core.errors import DataError, message_of, shown
from foveate.data.names import TABLE_ENDINGS, TABLE_SPLIT
from foveate.data.stored import Part, image_column, load_table

IMAGE, QUESTION, ANSWER = REQUIRED = ("image", "question", "answer")
CHOICES, EVIDENCE, KIND, ID, VIDEO = "choices", "evidence", "kind", "id", "video"
_KNOWN = (*REQUIRED, CHOICES, EVIDENCE, KIND, ID, VIDEO)
_LISTS = (ANSWER, CHOICES, EVIDENCE)  # and images, whose paths may begin with [ as well
_SAVED = ("dataset_info.json", "dataset_dict.json")


class TableRow(NamedTuple):
    """One row of a table.

    Attributes:
        number: Its number: the line of a jsonl file, else its position without the header, from 1.
        values: Its cells by column, without the image of a parquet file.
        problem: Reason why it cannot be read; empty if it can.
    """

    number: int
    values: Mapping[str, Any]
    problem: str = ""


@dataclass(frozen=True)
class Rows:
    """The rows of a table.

    Attributes:
        path: The file, or the folder written by `save_to_disk`.
        folder: Folder that paths of images start from.
        rows: The rows.
        images: The images of the rows, see `image_column`.
        columns: Names of all columns.
    """

    path: Path
    folder: Path
    rows: tuple[TableRow, ...]
    images: Dataset
    columns: tuple[str, ...]


def read_table(location: Path, split: str) -> Rows:
    """Reads a table.

    Args:
        location: A file, a folder of tables, or a folder written by `save_to_disk`.
        split: `TABLE_SPLIT`, or the name of a table in the folder, or of a split of the saved folder.

    Raises:
        DataError: The table cannot be read, has no rows, or lacks or misspells columns.
    """
    path, part = _chosen(location, split)
    name = path.name
    found = _of_arrow(path, part) if path.is_dir() or path.suffix == ".parquet" else _of_text(path)
    columns = found.columns
    if not found.rows:
        raise DataError(f"table {name!r} has no rows; expected one question per row, {page(OWN_DATA)}")
    _check_spelling(name, columns)
    readable = any(not row.problem for row in found.rows)
    if readable and (missing := _lacking(columns)):
        raise DataError(
            f"table {name!r} has no column {', '.join(map(repr, missing))}; found: {', '.join(columns) or 'none'}; "
            f"expected {', '.join(REQUIRED)} ({VIDEO} in place of {IMAGE}): rename or add it, {page(OWN_DATA)}"
        )
    return found


def _lacking(columns: tuple[str, ...]) -> list[str]:
    """Returns the columns that a table needs and lacks; it may have videos in place of images."""
    return [name for name in REQUIRED if name not in columns and not (name == IMAGE and VIDEO in columns)]


def _check_spelling(name: str, columns: tuple[str, ...]) -> None:
    """Raises `DataError` if a column would be read if it had neither capitals nor surrounding blanks."""
    meant = {column: column.strip().lower() for column in columns}
    wrong = [f"{column!r} to {known!r}" for column, known in meant.items() if known in _KNOWN and known not in columns]
    if wrong:
        raise DataError(f"table {name!r} has columns whose names are not read as they are: rename {', '.join(wrong)}")


def _chosen(location: Path, split: str) -> tuple[Path, str]:
    """Returns the file or saved folder that holds a split, and the name of the split in it."""
    if location.is_file():
        if location.suffix not in TABLE_ENDINGS:
            raise DataError(f"table {location.name!r}: expected a name that ends in one of {' '.join(TABLE_ENDINGS)}")
        if split != TABLE_SPLIT:
            raise DataError(
                f"split {split!r}: the table {location.name!r} has none; leave it out, or give a folder that has one "
                "table per split, named after it"
            )
        return location, split
    if any((location / file).exists() for file in _SAVED):
        splits = _saved_splits(location)
        return location, _only(splits, split, location) if splits else split
    files = [file for file in sorted(location.iterdir()) if file.suffix in TABLE_ENDINGS]
    tables = {file.stem: file for file in files}
    if len(tables) < len(files):
        raise DataError(f"folder {location.name!r} has two tables of one name: {', '.join(tables)}; give one's path")
    if not tables:
        raise DataError(
            f"folder {location.name!r} holds no table: expected a file that ends in one of {' '.join(TABLE_ENDINGS)}, "
            f"or what `save_to_disk` of `datasets` writes, {page(OWN_DATA)}"
        )
    return tables[_only(list(tables), split, location)], TABLE_SPLIT


def _only(known: list[str], split: str, location: Path) -> str:
    """Returns the split of this name, or the only one."""
    if split in known:
        return split
    if split == TABLE_SPLIT and len(known) == 1:
        return known[0]
    raise DataError(f"split {split!r} of {location.name!r} is unknown: choose one with --split {' | '.join(known)}")


def _saved_splits(folder: Path) -> list[str]:
    """Returns the splits of a saved `DatasetDict`; none of a saved `Dataset`."""
    try:
        return [str(name) for name in json.loads((folder / "dataset_dict.json").read_text())["splits"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"folder {folder.name!r}: its dataset_dict.json cannot be read: {message_of(error)}") from error


def _of_arrow(path: Path, split: str) -> Rows:
    table = load_table(path.name, "", str(path), Part(split))
    columns = tuple(table.column_names)
    texts = table.select_columns([c for c in (QUESTION, ANSWER, CHOICES, EVIDENCE, KIND, ID, VIDEO) if c in columns])
    labels = {name: feature.names for name, feature in texts.features.items() if isinstance(feature, ClassLabel)}
    cells = cast(pa.Table, texts.with_format("arrow")[:]).to_pylist() or [{} for _ in range(len(table))]
    rows = tuple(TableRow(number, _labelled(values, labels)) for number, values in enumerate(cells, 1))
    none = Dataset.from_dict({IMAGE: [None] * len(table)}, features=Features({IMAGE: Value("string")}))
    images = image_column(table if IMAGE in columns else none, IMAGE)
    return Rows(path, path if path.is_dir() else path.parent, rows, images, columns)


def _labelled(values: dict[str, Any], labels: Mapping[str, list[str]]) -> dict[str, Any]:
    """Returns a row with the names of its labels, which are stored as numbers."""
    named = {column: dict(enumerate(names)).get(values[column]) for column, names in labels.items()}
    return values | named


def _of_text(path: Path) -> Rows:
    try:
        rows = tuple(_json_rows(path) if path.suffix == ".jsonl" else _csv_rows(path))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(
            f"table {path.name!r} cannot be read: {message_of(error)}; expected UTF-8, {page(OWN_DATA)}"
        ) from error
    paths = {IMAGE: [_paths(row.values.get(IMAGE)) for row in rows]}
    images = Dataset.from_dict(paths, features=Features({IMAGE: List(Value("string"))}))
    columns = tuple(dict.fromkeys(str(column) for row in rows for column in row.values))
    return Rows(path, path.parent, rows, image_column(images, IMAGE), columns)


def _paths(cell: Any) -> list[str | None]:  # noqa: ANN401 (as the table has it)
    """Returns the paths of the images of a cell; None for what is no path."""
    cells = cell if isinstance(cell, list) else [cell]
    cells = [value.get("path") if isinstance(value, dict) and not value.get("bytes") else value for value in cells]
    return [value if isinstance(value, str) else None for value in cells]


def _json_rows(path: Path) -> Iterator[TableRow]:
    for number, line in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = _from_json(line.decode())
        except (UnicodeDecodeError, DataError) as error:
            yield TableRow(number, {}, f"it is not JSON in UTF-8 ({message_of(error)}): expected one object per line")
            continue
        if isinstance(values, dict):
            yield TableRow(number, values)
        else:
            yield TableRow(number, {}, f'it is {shown(values)}: expected an object, such as {{"image": "a.png", ...}}')


def _csv_rows(path: Path) -> Iterator[TableRow]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        names = list(reader.fieldnames or ())
        if len(set(names)) < len(names):
            raise DataError(f"table {path.name!r} has two columns of one name: {', '.join(names)}; rename one")
        for number, cells in enumerate(reader, 1):
            if None in cells or None in cells.values():
                found = len(names) + len(cells[None]) if None in cells else sum(v is not None for v in cells.values())
                why = f"it has {found} cells, expected {len(names)}: put a cell with a comma into quotation marks"
                yield TableRow(number, {}, why)
                continue
            try:
                yield TableRow(number, {name: _of_cell(str(name), text) for name, text in cells.items()})
            except DataError as error:
                yield TableRow(number, {}, str(error))


def _of_cell(column: str, text: str) -> Any:  # noqa: ANN401 (a text, or what JSON holds)
    """Returns a cell of a csv file: what JSON it holds if it is a list, else its text."""
    if column not in (*_LISTS, IMAGE) or not text.lstrip().startswith("["):
        return text
    try:
        values = _from_json(text)
        return text if column == IMAGE and not all(isinstance(value, str) for value in values) else values
    except DataError as error:
        if column == IMAGE:
            return text
        raise DataError(f"column {column!r} begins with [ and is no list in JSON ({error}): {shown(text)}") from error


def _from_json(text: str) -> Any:  # noqa: ANN401 (what JSON holds)
    try:
        values = json.loads(text)
        json.dumps(values, ensure_ascii=False).encode()  # refuses half of a surrogate pair
    except (ValueError, RecursionError) as error:
        raise DataError(message_of(error)) from error
    return values
