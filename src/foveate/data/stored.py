"""Tables of questions and images on disk or on the hub; images are read on demand."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
from datasets import (
    Dataset,
    DatasetDict,
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    load_dataset,
    load_from_disk,
)
from PIL import Image as PILImage
from PIL import UnidentifiedImageError
from PIL.Image import Image

from foveate.core.errors import DataError, message_of, shown
from foveate.core.progress import bars_visible
from foveate.data.rgb import as_rgb, upright_size
from foveate.data.sample import ImageSource

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Image formats that are read. Others are refused: Pillow runs external programs for some, such as EPS."""
LARGEST_FILE = 256 * 2**20  # bytes of one encoded image


@dataclass(frozen=True)
class Part:
    """The location of a split within a data set.

    Attributes:
        split: Name of the split on the hub.
        config: Name of the configuration on the hub.
        only: Column and value that select the rows of the split; None means all rows.
        answered: Whether the split has answers.
        json: Pattern of JSON files below a local folder, each a list of rows; their names, without the ending, are a
            column `file`. Without such files, parquet files are read.
    """

    split: str
    config: str | None = None
    only: tuple[str, str] | None = None
    answered: bool = True
    json: str = ""


@contextmanager
def opened(data: bytes, name: str) -> Iterator[Image]:
    """Yields the image that encoded bytes hold, not yet decoded.

    Args:
        data: The bytes.
        name: Name of the image in errors.

    Raises:
        DataError: They have no pixels, or cannot be decoded in this block.
    """
    label = f"{name} ({len(data):,} bytes)"
    try:
        with PILImage.open(BytesIO(data), formats=FORMATS) as image:
            if 0 in image.size:
                raise DataError(f"{label} has no pixels: its size is {image.width} x {image.height}")
            yield image
    except UnidentifiedImageError as error:
        raise DataError(f"{label} cannot be decoded: expected one of the formats {', '.join(FORMATS)}") from error
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many types
        raise DataError(f"{label} cannot be decoded: {message_of(error)}") from error


@dataclass(frozen=True, eq=False)
class StoredImage(ImageSource):
    """An image in a table.

    `open` returns the first frame of an animation. Pillow's limits on the size of decoded images apply. A file that a
    table names must lie in the table's folder, so that a table cannot read other files of the machine.

    Attributes:
        table: Result of `image_column`.
        row: Row of the table.
        name: Name of the image in errors.
        folder: Folder that relative paths in the table start from.
        item: Position in the list of images that the cell holds, if it holds a list.
    """

    table: Dataset
    row: int
    name: str
    folder: Path
    item: int = 0

    def open(self) -> Image:
        with self._opened() as image:
            return as_rgb(image, f"image {shown(self.name)}")

    @property
    def size(self) -> tuple[int, int]:
        with self._opened() as image:
            return upright_size(image, f"image {shown(self.name)}")

    def content(self) -> bytes:
        stored = self._stored()
        return self._read(stored) if isinstance(stored, Path) else stored

    @property
    def file(self) -> Path | None:
        """The file that the table names; None if the table holds the image itself.

        Raises:
            DataError: There is no such file in the table's folder.
        """
        stored = self._stored()
        return stored if isinstance(stored, Path) else None

    def _stored(self) -> bytes | Path:
        """Returns the encoded bytes that the cell holds, or the file that it names."""
        cell: Any = cast(pa.Table, self.table[self.row]).column(0)[0].as_py()
        value = cell[self.item] if isinstance(cell, list) and cell else cell
        value = {"path": value} if isinstance(value, str) else value
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if data and isinstance(data, bytes):
            return data
        if path and isinstance(path, str):
            return file_inside(self.folder, path, f"image {shown(self.name)}")
        if data or path:
            raise DataError(
                f"image {shown(self.name)} is {shown(value)}: expected encoded bytes, or a path in the table's folder"
            )
        raise DataError(f"image {shown(self.name)} is missing: its cell holds neither bytes nor a path")

    def _read(self, file: Path) -> bytes:
        try:
            if (size := file.stat().st_size) > LARGEST_FILE:
                raise DataError(f"image {shown(self.name)} has {size:,} bytes, expected at most {LARGEST_FILE:,}")
            return file.read_bytes()
        except OSError as error:
            raise DataError(f"image {shown(self.name)} cannot be read: {message_of(error)}") from error

    @contextmanager
    def _opened(self) -> Iterator[Image]:
        with opened(self.content(), f"image {shown(self.name)}") as image:
            yield image


def file_inside(folder: Path, path: str, label: str) -> Path:
    """Returns the file of a path that a table names, which must lie in the table's folder.

    Args:
        folder: The folder.
        path: The path from there.
        label: Name of the image or video in errors.

    Raises:
        DataError: There is no such file, or it lies elsewhere.
    """
    try:
        file = (folder / path).resolve()
        if not file.is_relative_to(folder.resolve()):
            raise DataError(
                f"{label}: its path {shown(path)} leads out of the folder of its table; move the file into that "
                "folder, or store its bytes in the table"
            )
        if not file.is_file():
            raise DataError(f"{label}: there is no file {shown(path)} in the folder of its table")
        return file
    except (OSError, ValueError) as error:  # ValueError: invalid paths, such as one with a null byte
        raise DataError(f"{label} cannot be read: {message_of(error)}") from error


@dataclass(frozen=True)
class MissingImage(ImageSource):
    """An image that a question names and that no table holds."""

    name: str

    def open(self) -> Image:
        raise self._error

    @property
    def size(self) -> tuple[int, int]:
        raise self._error

    def content(self) -> bytes:
        raise self._error

    @property
    def _error(self) -> DataError:
        return DataError(f"image {shown(self.name)} is not in the table of images")


def load_table(name: str, repo: str, location: str | None, part: Part) -> Dataset:
    """Returns the rows of a split.

    Args:
        name: Name of the data set in errors.
        repo: Hub ID of the data set.
        location: A parquet file, a folder of them, a folder written by `save_to_disk`, or another hub ID; None means
            `repo`.
        part: The split. In a folder, files below `<config>` and those whose names start with `<split>` are preferred;
            a single file is used as the split.

    Raises:
        DataError: The table does not exist, cannot be read, or has no rows.
    """
    if location is not None and (_exists(name, location) or not _is_hub_id(location)):
        with without_progress_bars():
            table = _local(name, Path(location).expanduser(), part)
    else:
        with nullcontext() if bars_visible() else without_progress_bars():  # downloads may be large
            table = _from_hub(name, location or repo, part)
    if part.only:
        column, value = part.only
        if column not in table.column_names:
            raise DataError(f"data {name!r} has no column {column!r}, which separates its splits")
        rows = [row for row, cell in enumerate(cells_of(table, column)) if cell == value]
        table = table.select(rows)
    if not len(table):
        which = f" with {part.only[0]} {part.only[1]!r}" if part.only else ""
        raise DataError(f"data {name!r}: split {part.split!r} has no rows{which}")
    return table


def check_columns(name: str, table: Dataset, columns: Sequence[str], repo: str) -> None:
    """Raises `DataError` if the table lacks columns."""
    if missing := [column for column in columns if column not in table.column_names]:
        raise DataError(
            f"data {name!r} lacks the columns {', '.join(missing)}; found: {', '.join(table.column_names)}; expected "
            f"those of {repo}: {', '.join(columns)}"
        )


def cells_of(table: Dataset, column: str) -> list[Any]:
    """Returns the cells of a column without images, which `datasets` would read row by row."""
    rows = table.select_columns([column]).with_format("arrow")
    return [cell for batch in rows.iter(batch_size=1000) for cell in cast(pa.Table, batch).column(0).to_pylist()]


def image_column(table: Dataset, column: str) -> Dataset:
    """Returns a column of encoded images as a data set whose rows are Arrow tables of one row."""
    return table.select_columns([column]).with_format("arrow")


def has_image(table: Dataset, column: str) -> list[bool]:
    """Returns whether each row has an image."""
    images = image_column(table, column)
    return [valid for batch in images.iter(batch_size=64) for valid in _valid(cast(pa.Table, batch))]


def content_names(table: Dataset, column: str) -> list[str]:
    """Returns a name of each row's image, the same for the same encoded bytes or path; empty without an image."""
    images = image_column(table, column)
    cells = (cell for batch in images.iter(batch_size=64) for cell in cast(pa.Table, batch).column(0).to_pylist())
    return [_content_name(cell) for cell in cells]


def _content_name(cell: Any) -> str:  # noqa: ANN401 (as the table has it)
    content = (cell.get("bytes") or cell.get("path")) if isinstance(cell, dict) else cell
    if isinstance(content, str):
        content = content.encode(errors="surrogatepass")
    return content_hash(content) if content and isinstance(content, bytes) else ""


def content_hash(content: bytes) -> str:
    """Returns 16 hexadecimal digits that name an image by its content, or stand for a name that is too long."""
    return hashlib.sha256(content).hexdigest()[:16]


def _valid(batch: pa.Table) -> list[bool]:
    return batch.column(0).is_valid().to_pylist()


def _exists(name: str, location: str) -> bool:
    try:
        return Path(location).expanduser().exists()
    except (OSError, RuntimeError) as error:  # a path that is too long, or the home of an unknown user
        raise DataError(f"data {name!r}: {shown(location)} is not a valid path: {message_of(error)}") from error


def _is_hub_id(location: str) -> bool:
    return location.count("/") == 1 and not location.startswith((".", "/", "~")) and not location.endswith(".parquet")


def _local(name: str, location: Path, part: Part) -> Dataset:
    if not location.exists():
        raise DataError(f"data {name!r}: there is no file or folder {location}")
    if location.is_dir() and any((location / file).exists() for file in ("dataset_info.json", "dataset_dict.json")):
        return _saved(name, location, part)
    if part.json and location.is_dir() and (listed := sorted(location.glob(part.json))):
        return _of_json(name, listed)
    files = [location] if location.is_file() else _files(location, part)
    if not files:
        raise DataError(f"data {name!r}: {location} holds no parquet files of split {part.split!r}")
    try:
        return load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    except Exception as error:  # pyarrow and datasets raise errors of many types
        raise DataError(f"data {name!r}: {location} cannot be read as parquet: {message_of(error)}") from error


def _of_json(name: str, files: Sequence[Path]) -> Dataset:
    rows: list[dict[str, Any]] = []
    for file in files:
        try:
            rows += [{**row, "file": file.stem} for row in json.loads(file.read_bytes())]
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise DataError(f"data {name!r}: {file} is not a list of rows in JSON: {message_of(error)}") from error
    columns = dict.fromkeys(column for row in rows for column in row)
    try:
        return Dataset.from_dict({column: [row.get(column) for row in rows] for column in columns})
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"data {name!r}: rows of {files[0].parent} have cells of two types: {message_of(error)}"
        ) from error


def _saved(name: str, location: Path, part: Part) -> Dataset:
    try:
        saved = load_from_disk(str(location))
    except Exception as error:  # pyarrow and datasets raise errors of many types
        raise DataError(
            f"data {name!r}: {location} cannot be read as a folder of `save_to_disk`: {message_of(error)}"
        ) from error
    if not isinstance(saved, DatasetDict):
        return saved
    if part.split not in saved:
        raise DataError(f"data {name!r}: {location} has no split {part.split!r}; it has: {', '.join(map(str, saved))}")
    return saved[part.split]


def _files(folder: Path, part: Part) -> list[Path]:
    """Returns the files of a split, named as on the hub: [<config>/]<split>-00000-of-00001.parquet at any depth."""
    found = sorted(folder.rglob("*.parquet"))
    if part.config:
        found = [file for file in found if part.config in file.relative_to(folder).parts] or found
    named = [file for file in found if file.name.split("-")[0].split(".")[0] == part.split]
    return named or ([] if any("-of-" in file.name for file in found) else found)


def _from_hub(name: str, repo: str, part: Part) -> Dataset:
    try:
        return cast(Dataset, load_dataset(repo, part.config, split=part.split))
    except Exception as error:  # the network, the hub and the cache raise errors of many types
        raise DataError(
            f"data {name!r}: {repo} (config {part.config or 'default'}, split {part.split}) cannot be read from the "
            f"hub: {message_of(error)}; load it once with access to the hub, or give a folder or a parquet file: "
            f"--data {name}:PATH"
        ) from error


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Disables the progress bars of `datasets` within a block and restores them afterwards."""
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
