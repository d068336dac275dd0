"""Records on disk: one folder per run, one parquet part per batch, each renamed into place when it is whole.

The name of a part ends in the checksum of its content, and `config.json` holds its own; every reader verifies them.
`DONE` holds the number of records of a complete run. When a run is started again, damaged files are quarantined and
the questions without a record are answered.
"""

import json
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock

from foveate.core.errors import DataError, OutputError
from foveate.core.progress import bar
from foveate.core.storage import atomic_write, checksummed, intact, quarantine, remove
from foveate.data.sample import VQASample
from foveate.evaluation.config import run_id


@dataclass(frozen=True)
class Record:
    """The result of one question.

    Attributes:
        sample_id: The question's ID.
        image_id: The image's ID, or that of several images in their order; a text-only question has one of its own.
        kind: Question type.
        question: The question in the words of the prompt.
        reference: The reference answers, separated by " | ".
        prediction: The model's answer.
        score: Score in [0, 1], by the sample's `scoring`.
        kept: Patches that remain to the last block, in raster order; those of a second image are numbered after those
            of the first.
        tokens: Visual tokens of all images that enter the language model.
        tokens_per_block: Visual tokens that enter each block; their mean is the number of equivalent tokens.
        text_tokens: All other tokens of the prompt.
        evidence_recall: Share of the evidence kept (`metrics.evidence`); NaN if the evidence is unknown.
        things_kept: Share of the things kept (`metrics.evidence`); NaN if the evidence is unknown.
        log_probability: Log-probability of the most frequent reference answer, end token included.
        error: Reason why the question could not be answered; empty if it was.
        has_image: Whether the question is about an image. A text-only question keeps no patch and has no evidence.
    """

    sample_id: str
    image_id: str
    kind: str
    question: str
    reference: str
    prediction: str
    score: float
    kept: list[int]
    tokens: int
    tokens_per_block: list[int]
    text_tokens: int
    evidence_recall: float
    things_kept: float
    log_probability: float
    error: str = ""
    has_image: bool = True

    @classmethod
    def of_failure(cls, sample: VQASample, error: str) -> "Record":
        """Returns the record of a question that could not be answered: neither right nor wrong."""
        facts = (sample.id, sample.image_id, sample.kind, sample.question, " | ".join(sample.references))
        return cls(*facts, "", math.nan, [], 0, [], 0, math.nan, math.nan, math.nan, error, sample.seen)


_CHECKSUM = "checksum"  # of all else in `config.json`
_COLUMN_TYPES = {
    str: pa.string(),
    float: pa.float64(),
    int: pa.int64(),
    bool: pa.bool_(),
    list[int]: pa.list_(pa.int32()),
}
SCHEMA = pa.schema([(name, _COLUMN_TYPES[kind]) for name, kind in Record.__annotations__.items()])


class RunFolder(ABC):
    """The files of one run: `config.json`, one part per batch, and `DONE`, which holds the number of questions."""

    _PARTS: str  # pattern of the names of parts

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Creates the folder, quarantines damaged files, and writes `config.json`.

        Raises:
            OutputError: The folder cannot be written.
        """
        with self._writing(".lock"):
            if self.flaws():
                self._done.unlink(missing_ok=True)  # first: without its parts the run is not complete
            for path in self.damaged():
                quarantine(path)
            if not self._config.exists():
                with atomic_write(self._config) as path:
                    path.write_text(json.dumps(dict(identity) | {_CHECKSUM: run_id(identity)}, indent=1))

    def share(self, number: int) -> AbstractContextManager[None]:
        """Gives one process at a time the questions of a share; another one waits for it.

        Raises:
            OutputError: The folder cannot be written.
        """
        return self._writing(f".share-{number}.lock")

    @contextmanager
    def _writing(self, lock: str) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / lock):
                yield
        except OSError as error:
            raise OutputError(
                f"records cannot be written to {self.folder}: {error.strerror}; choose another --out"
            ) from error

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of the run, with its method and data.

        Raises:
            DataError: The folder holds no run, or its `config.json` is damaged.
        """
        if not self._config.exists():
            raise DataError(f"no config.json in {self.folder}: no run began here; run it with this --out")
        if (found := _read_config(self._config)) is None:
            raise self._error(f"{self._config.name} is damaged")
        return found

    @property
    def complete(self) -> bool:
        """True if every question has a record, and no file is damaged or lost."""
        return self._done.exists() and not self.flaws()

    def finish(self, sample_ids: Iterable[str]) -> None:
        """Marks the run as complete if every question has a record, and removes temporary files of killed processes.

        Raises:
            OutputError: Some have none.
        """
        expected, done = set(sample_ids), self.done()
        if missing := expected - done:
            raise OutputError(
                f"{len(missing)} questions have no record in {self.folder}, the first is {min(missing)!r}: run it again"
            )
        with atomic_write(self._done) as path:
            path.write_text(f"{len(done)}\n")
        for stale in self.folder.glob(".part-*"):
            remove(stale)

    def parts(self) -> list[Path]:
        """Returns all parts by name, intact or not."""
        return sorted(self.folder.glob(self._PARTS))

    def damaged(self) -> list[Path]:
        """Returns the files and folders whose content does not have its checksum."""
        config = [self._config] if self._config.exists() and _read_config(self._config) is None else []
        return config + [part for part in self.parts() if not intact(part)]

    def flaws(self) -> list[str]:
        """Returns a description of each damaged file, and of records that a complete run has lost."""
        if damaged := [f"{part.name} is damaged" for part in self.damaged()]:
            return damaged
        if not self._done.exists():
            return []
        expected, found = self._done.read_bytes().strip(), len(self.done())
        return (
            []
            if expected == b"%d" % found
            else [f"{found} records are there, and {expected.decode(errors='replace')} were"]
        )

    def intact_parts(self) -> list[Path]:
        """Returns all parts.

        Raises:
            DataError: A file is damaged, or records are lost.
        """
        if flaws := self.flaws():
            raise self._error(flaws[0])
        return self.parts()

    def _error(self, what: str) -> DataError:
        return DataError(
            f"{self.folder}: {what} (or written by another version); run the command that made it again: it "
            "quarantines damaged files and repeats their part"
        )

    @property
    def _config(self) -> Path:
        return self.folder / "config.json"

    @property
    def _done(self) -> Path:
        return self.folder / "DONE"

    @abstractmethod
    def done(self) -> frozenset[str]:
        """Returns the IDs of the questions that have records."""

    @abstractmethod
    def append(self, batch: Any) -> None:  # noqa: ANN401 (whatever the run's module predicts)
        """Writes the results of one batch of questions."""


class RecordFolder(RunFolder):
    """The records of an evaluation, one parquet file per batch."""

    _PARTS = "part-*.parquet"

    def done(self) -> frozenset[str]:
        parts = [part for part in self.parts() if intact(part)]
        ids = [_content(part, ["sample_id"])["sample_id"].to_pylist() for part in parts]
        return frozenset(sample_id for part in ids for sample_id in part)

    def append(self, batch: Sequence[Record]) -> None:
        table = pa.Table.from_pylist([vars(record) for record in batch], schema=SCHEMA)
        with checksummed(self.folder, f"part-{quote(batch[0].sample_id, safe='')}", ".parquet") as path:
            pq.write_table(table, path)

    def read(self) -> pa.Table:
        """Returns the records of the answered questions, sorted by sample ID.

        Raises:
            DataError: There are none, a question has two records, or a part is damaged or lost.
        """
        table = self.read_all()
        answered = table.filter(pc.field("error") == "")
        if not answered.num_rows:
            raise DataError(
                f"none of {table.num_rows} questions could be answered; the first, {table['sample_id'][0].as_py()!r}: "
                f"{table['error'][0].as_py()}"
            )
        return answered

    def failed(self) -> dict[str, str]:
        """Returns the reason for each question that could not be answered, by sample ID."""
        table = self.read_all()
        failed = table.filter(pc.field("error") != "")
        return dict(zip(failed["sample_id"].to_pylist(), failed["error"].to_pylist(), strict=True))

    def read_all(self) -> pa.Table:
        """Returns all records, sorted by sample ID; those of questions that could not be answered have an `error`.

        Raises:
            DataError: There are none, a question has two records, or a part is damaged or lost.
        """
        parts = [_content(part) for part in bar(self.intact_parts(), "part", "reading records")]
        if not parts:
            raise DataError(f"no records in {self.folder}: evaluate this configuration first, with the same --out")
        whole = pa.concat_tables([SCHEMA.empty_table(), *parts], promote_options="permissive")
        table = whole.select(SCHEMA.names).cast(SCHEMA).combine_chunks().sort_by("sample_id")
        for name, value in (("error", ""), ("has_image", True)):  # of older records
            table = table.set_column(table.column_names.index(name), name, pc.fill_null(table[name], value))
        counts = Counter(table["sample_id"].to_pylist())
        if twice := [sample_id for sample_id, count in counts.items() if count > 1]:
            raise DataError(
                f"{len(twice)} questions have two records in {self.folder}, the first is {twice[0]!r}: "
                "remove the folder and evaluate again"
            )
        return table

    def since(self, known: Collection[Path], columns: Sequence[str]) -> dict[Path, pa.Table]:
        """Returns columns of the parts that are not known yet.

        Args:
            known: Parts that were read before.
            columns: Names of the columns.
        """
        new = [part for part in self.parts() if part not in known]
        if damaged := [part for part in new if not intact(part)]:
            raise self._error(f"{damaged[0].name} is damaged")
        return {part: _content(part, columns) for part in new}


def _content(part: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Returns a part's table; a part is so small that setting up threads would take longer than reading it."""
    with pq.ParquetFile(part) as file:
        return file.read(None if columns is None else list(columns), use_threads=False)


def _read_config(path: Path) -> dict[str, Any] | None:
    """Returns the content of a `config.json`, or None if it does not have its checksum."""
    try:
        found = json.loads(path.read_text())
        return found if found.pop(_CHECKSUM) == run_id(found) else None
    except (ValueError, AttributeError, LookupError, TypeError):
        return None
