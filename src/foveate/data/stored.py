"""Tables of questions and images on disk or on the hub; images stay there until they are looked at."""

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

from foveate.core.errors import DataError, said, shown
from foveate.core.progress import bars_visible
from foveate.data.rgb import as_rgb, upright_size
from foveate.data.sample import ImageSource

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Of images. Others are refused: Pillow has some, such as EPS, drawn by programs of the machine."""
LARGEST_FILE = 256 * 2**20  # bytes of one encoded image


@dataclass(frozen=True)
class Part:
    """Where the questions of a split are.

    Attributes:
        split: Name of the split on the hub.
        config: Name of the configuration on the hub.
        only: Column and value of the rows that belong to it; None means all rows.
        answered: Whether it comes with answers.
    """

    split: str
    config: str | None = None
    only: tuple[str, str] | None = None
    answered: bool = True


@dataclass(frozen=True, eq=False)
class Stored(ImageSource):
    """An image in a table.

    It is opened as `data.rgb.as_rgb` says: upright, in red, green and blue; of an animation the first frame. Pillow's
    limits on the size of what it decodes stay on. A file that a table names must lie below the table's folder: a table
    is data, and reads nothing else of the machine.

    Attributes:
        table: See `encoded`; of a list of images the first is meant.
        row: In the table.
        name: What an error calls the image.
        folder: What relative paths in the table start from.
    """

    table: Dataset
    row: int
    name: str
    folder: Path

    def open(self) -> Image:
        with self._opened() as image:
            return as_rgb(image, f"image {shown(self.name)}")

    @property
    def size(self) -> tuple[int, int]:
        with self._opened() as image:
            return upright_size(image, f"image {shown(self.name)}")

    def content(self) -> bytes:
        cell: Any = cast(pa.Table, self.table[self.row]).column(0)[0].as_py()
        value = cell[0] if isinstance(cell, list) and cell else cell
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if data and isinstance(data, bytes):
            return data
        if path and isinstance(path, str):
            return self._file(path)
        if data or path:
            raise DataError(
                f"image {shown(self.name)} is {shown(value)}: expected encoded bytes, or a path beside the table"
            )
        raise DataError(f"image {shown(self.name)} is missing: its cell holds neither bytes nor a path")

    def _file(self, path: str) -> bytes:
        try:
            file = (self.folder / path).resolve()
            if not file.is_relative_to(self.folder.resolve()):
                raise DataError(
                    f"image {shown(self.name)}: its path {shown(path)} leads out of the folder of its table; put it "
                    "beside the table, or its bytes into it"
                )
            if not file.is_file():
                raise DataError(f"image {shown(self.name)}: there is no file {shown(path)} beside its table")
            if (size := file.stat().st_size) > LARGEST_FILE:
                raise DataError(f"image {shown(self.name)} has {size:,} bytes, at most {LARGEST_FILE:,} are read")
            return file.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: of paths that no system can have
            raise DataError(f"image {shown(self.name)} cannot be read: {said(error)}") from error

    @contextmanager
    def _opened(self) -> Iterator[Image]:
        data = self.content()
        about = f"image {shown(self.name)} ({len(data):,} bytes)"
        try:
            with PILImage.open(BytesIO(data), formats=FORMATS) as image:
                if 0 in image.size:
                    raise DataError(f"{about} has no pixels: it is {image.width} x {image.height}")
                yield image
        except UnidentifiedImageError as error:
            raise DataError(f"{about} cannot be decoded: it is in none of {', '.join(FORMATS)}") from error
        except DataError:
            raise
        except Exception as error:  # Pillow's decoders raise what they like
            raise DataError(f"{about} cannot be decoded: {said(error)}") from error


@dataclass(frozen=True)
class Missing(ImageSource):
    """An image that a question is about and that no table has."""

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


def table_of(name: str, repo: str, location: str | None, part: Part) -> Dataset:
    """Returns the rows of a split.

    Args:
        name: Of the data set, for messages.
        repo: Its hub id.
        location: A parquet file, a folder of them, a folder written by `save_to_disk`, or another hub id; None means
            `repo`.
        part: What to read. In a folder, files below `<config>` and those whose names start with `<split>` are
            preferred; a single file is taken for the split.

    Raises:
        DataError: There is no such table, it cannot be read, or has no rows.
    """
    if location is not None and (_is_there(name, location) or not _is_hub_id(location)):
        with without_progress_bars():
            table = _local(name, Path(location).expanduser(), part)
    else:
        with nullcontext() if bars_visible() else without_progress_bars():  # what is fetched may be large
            table = _from_hub(name, location or repo, part)
    if part.only:
        column, value = part.only
        if column not in table.column_names:
            raise DataError(f"data {name!r} has no column {column!r}, by which its splits are told apart")
        rows = [row for row, found in enumerate(table[column]) if found == value]
        table = table.select(rows)
    if not len(table):
        which = f" with {part.only[0]} {part.only[1]!r}" if part.only else ""
        raise DataError(f"data {name!r}: split {part.split!r} has no rows{which}")
    return table


def checked(name: str, table: Dataset, columns: Sequence[str], repo: str) -> None:
    """Raises `DataError` if columns are missing."""
    if missing := [column for column in columns if column not in table.column_names]:
        raise DataError(
            f"data {name!r} lacks the columns {', '.join(missing)}; found: {', '.join(table.column_names)}; expected "
            f"those of {repo}: {', '.join(columns)}"
        )


def encoded(table: Dataset, column: str) -> Dataset:
    """Returns the column of images alone, undecoded: its rows are Arrow tables of one row."""
    return table.select_columns([column]).with_format("arrow")


def filled(table: Dataset, column: str) -> list[bool]:
    """Returns which rows have an image."""
    images = encoded(table, column)
    return [valid for batch in images.iter(batch_size=64) for valid in _valid(cast(pa.Table, batch))]


def _valid(batch: pa.Table) -> list[bool]:
    return batch.column(0).is_valid().to_pylist()


def _is_there(name: str, location: str) -> bool:
    try:
        return Path(location).expanduser().exists()
    except (OSError, RuntimeError) as error:  # too long, or the home of a user that is unknown
        raise DataError(f"data {name!r}: no file or folder can be called {shown(location)}: {said(error)}") from error


def _is_hub_id(location: str) -> bool:
    return location.count("/") == 1 and not location.startswith((".", "/", "~")) and not location.endswith(".parquet")


def _local(name: str, location: Path, part: Part) -> Dataset:
    if not location.exists():
        raise DataError(f"data {name!r}: there is no file or folder {location}")
    if location.is_dir() and any((location / note).exists() for note in ("dataset_info.json", "dataset_dict.json")):
        return _saved(name, location, part)
    files = [location] if location.is_file() else _files(location, part)
    if not files:
        raise DataError(f"data {name!r}: {location} holds no parquet files of split {part.split!r}")
    try:
        return load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    except Exception as error:  # pyarrow and datasets raise what they like
        raise DataError(f"data {name!r}: {location} cannot be read as parquet: {said(error)}") from error


def _saved(name: str, location: Path, part: Part) -> Dataset:
    try:
        saved = load_from_disk(str(location))
    except Exception as error:  # pyarrow and datasets raise what they like
        raise DataError(
            f"data {name!r}: {location} cannot be read as `save_to_disk` writes it: {said(error)}"
        ) from error
    if not isinstance(saved, DatasetDict):
        return saved
    if part.split not in saved:
        raise DataError(f"data {name!r}: {location} has no split {part.split!r}; it has: {', '.join(map(str, saved))}")
    return saved[part.split]


def _files(folder: Path, part: Part) -> list[Path]:
    """Of the split as the hub lays it out: [<config>/]<split>-00000-of-00001.parquet, in `data` or elsewhere below."""
    found = sorted(folder.rglob("*.parquet"))
    if part.config:
        found = [file for file in found if part.config in file.relative_to(folder).parts] or found
    named = [file for file in found if file.name.split("-")[0].split(".")[0] == part.split]
    return named or ([] if any("-of-" in file.name for file in found) else found)


def _from_hub(name: str, repo: str, part: Part) -> Dataset:
    try:
        return cast(Dataset, load_dataset(repo, part.config, split=part.split))
    except Exception as error:  # of the network, the hub, the cache
        raise DataError(
            f"data {name!r}: {repo} (config {part.config or 'default'}, split {part.split}) cannot be read from the "
            f"hub: {said(error)}; load it once where the hub can be reached, or give a folder or a parquet file: "
            f"--data {name}:PATH"
        ) from error


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Within this block there are none; afterwards it is as before."""
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
