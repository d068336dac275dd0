"""Records on disk: one folder per run, one parquet part per batch, each renamed into place when it is whole.

The name of a part carries the checksum of its content, `config.json` holds its own, and `DONE` names the parts that a
finished run consists of. Whoever reads verifies; whoever locks the run sets aside what is damaged.
"""

import json
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    """What became of one question.

    Attributes:
        sample_id: Of the question.
        image_id: Of the image; a text-only question has one of its own.
        kind: Question type.
        question: As asked.
        reference: The reference answers, separated by " | ".
        prediction: The model's answer.
        score: In [0, 1]; how is the sample's `scoring`.
        kept: Patches whose places remain to the end, in raster order.
        tokens: Visual tokens that the language model was given.
        tokens_per_block: Visual tokens that enter each of its blocks; their mean are the equivalent tokens.
        text_tokens: All other tokens of the prompt.
        evidence_recall: See `metrics.evidence`; NaN when the evidence is unknown.
        things_kept: Likewise.
        log_probability: Of the reference answer that most annotators gave, with its end.
        error: Why the question could not be asked; empty if it was.
        has_image: Whether the question is about an image; of a text-only one nothing is kept, and no evidence is known.
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
        """Of a question that could not be asked: neither right nor wrong."""
        facts = (sample.id, sample.image_id, sample.kind, sample.question, " | ".join(sample.references))
        return cls(*facts, "", math.nan, [], 0, [], 0, math.nan, math.nan, math.nan, error, sample.source is not None)


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
    """What a run leaves on disk, batch by batch; whoever leads a run holds `lock`, who only writes to it `hand`."""

    _PARTS: str  # pattern of their names

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def lock(self, identity: Mapping[str, Any]) -> Iterator[None]:
        """Makes the folder, waits until no other process writes to it, mends it, and notes what the run is.

        Raises:
            OutputError: The place cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock"):
                for helper in self.folder.glob(".hand-*"):  # of a leader that is gone
                    with FileLock(helper):
                        pass
                self._mend()
                if not self._config.exists():
                    with atomic_write(self._config) as path:
                        path.write_text(json.dumps(dict(identity) | {_CHECKSUM: run_id(identity)}, indent=1))
                yield
        except OSError as error:
            raise OutputError(
                f"records cannot be written to {self.folder}: {error.strerror}; choose another --out"
            ) from error

    def _mend(self) -> None:
        """Removes what killed processes left half-written, and sets aside what is damaged."""
        for stale in self.folder.glob(".part-*"):
            remove(stale)
        damaged = self.damaged()
        if damaged:
            self._done.unlink(missing_ok=True)  # first, for without its parts the run is not finished
        for path in damaged:
            quarantine(path)
        if flaws := self.flaws():
            quarantine(self._done, flaws[0])

    def hand(self, number: int) -> FileLock:
        """Held by helper `number` as long as it writes, so that no other run begins before an orphan has ended."""
        return FileLock(self.folder / f".hand-{number}")

    @property
    def identity(self) -> dict[str, Any]:
        """What the run is, as noted when it began.

        Raises:
            DataError: Nothing was run here, or the note is damaged.
        """
        if not self._config.exists():
            raise DataError(f"no config.json in {self.folder}: nothing was run here; start it with this --out")
        if not _noted(self._config):
            raise self._error(f"{self._config.name} is damaged")
        return {name: value for name, value in json.loads(self._config.read_text()).items() if name != _CHECKSUM}

    @property
    def complete(self) -> bool:
        """Whether every question has a record, and no file is damaged or lost."""
        return self._done.exists() and not self.flaws()

    def finish(self, sample_ids: Iterable[str]) -> None:
        """Marks the run as complete if every question has a record.

        Raises:
            OutputError: Some have none.
        """
        if missing := set(sample_ids) - self.done():
            raise OutputError(
                f"{len(missing)} questions have no record in {self.folder}, the first is {min(missing)!r}: run it again"
            )
        with atomic_write(self._done) as path:
            path.write_text(self._mark())

    def parts(self) -> list[Path]:
        """All parts by name, sound or not."""
        return sorted(self.folder.glob(self._PARTS))

    def damaged(self) -> list[Path]:
        """Files and folders whose content is not what it was."""
        config = [self._config] if self._config.exists() and not _noted(self._config) else []
        return config + [part for part in self.parts() if not intact(part)]

    def flaws(self) -> list[str]:
        """What is damaged, and which parts of a finished run are lost, each in words."""
        damaged = [f"{path.name} is damaged" for path in self.damaged()]
        if not self._done.exists() or (mark := self._done.read_bytes().decode(errors="replace")) == self._mark():
            return damaged
        lost = [name for name in mark.split("\n") if name and not (self.folder / name).exists()]
        return damaged + [f"{name!r} is lost" for name in lost] or [f"{self._done.name} does not name its parts"]

    def sound_parts(self) -> list[Path]:
        """All parts, which may be read.

        Raises:
            DataError: Something is damaged or lost.
        """
        if flaws := self.flaws():
            raise self._error(f"{len(flaws)} flaws, the first: {flaws[0]}")
        return self.parts()

    def _mark(self) -> str:
        """What `DONE` says: the parts that the run consists of."""
        return "".join(f"{part.name}\n" for part in self.parts())

    def _error(self, what: str) -> DataError:
        return DataError(
            f"{self.folder}: {what} (or of an earlier version); run the command that made it again: it sets aside what "
            "is damaged and makes it anew"
        )

    @property
    def _config(self) -> Path:
        return self.folder / "config.json"

    @property
    def _done(self) -> Path:
        return self.folder / "DONE"

    @abstractmethod
    def done(self) -> frozenset[str]:
        """Ids of the questions that are already answered."""

    @abstractmethod
    def append(self, batch: Any) -> None:  # noqa: ANN401 (whatever the run's module predicts)
        """Puts what a batch of questions gave on disk."""


class RecordFolder(RunFolder):
    """The records of an evaluation, one file per batch."""

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
        """The records of the questions that were answered, by sample id.

        Raises:
            DataError: There are none, a question stands twice, or a part is damaged or lost.
        """
        table = self._all()
        answered = table.filter(pc.field("error") == "")
        if not answered.num_rows:
            raise DataError(
                f"none of {table.num_rows} questions could be asked; the first, {table['sample_id'][0].as_py()!r}: "
                f"{table['error'][0].as_py()}"
            )
        return answered

    def failed(self) -> dict[str, str]:
        """By sample id: why a question could not be asked."""
        table = self._all()
        failed = table.filter(pc.field("error") != "")
        return dict(zip(failed["sample_id"].to_pylist(), failed["error"].to_pylist(), strict=True))

    def _all(self) -> pa.Table:
        parts = [_content(part) for part in bar(self.sound_parts(), "part", "reading records")]
        if not parts:
            raise DataError(f"no records in {self.folder}: evaluate this configuration first, with the same --out")
        whole = pa.concat_tables([SCHEMA.empty_table(), *parts], promote_options="permissive")
        table = whole.select(SCHEMA.names).cast(SCHEMA).combine_chunks().sort_by("sample_id")
        for name, value in (("error", ""), ("has_image", True)):  # of older records
            table = table.set_column(table.column_names.index(name), name, pc.fill_null(table[name], value))
        counts = Counter(table["sample_id"].to_pylist())
        if twice := [sample_id for sample_id, count in counts.items() if count > 1]:
            raise DataError(
                f"{len(twice)} questions stand twice in {self.folder}, the first is {twice[0]!r}: "
                "remove the folder and evaluate again"
            )
        return table

    def since(self, known: Collection[Path], columns: Sequence[str]) -> dict[Path, pa.Table]:
        """The parts that are not among the known ones.

        Args:
            known: Earlier parts.
            columns: Which are read.
        """
        new = [part for part in self.parts() if part not in known]
        if damaged := [part for part in new if not intact(part)]:
            raise self._error(f"{damaged[0].name} is damaged")
        return {part: _content(part, columns) for part in new}


def _content(part: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A part is so small that to set up a data set, or threads, takes thrice as long as to read it."""
    with pq.ParquetFile(part) as file:
        return file.read(None if columns is None else list(columns), use_threads=False)


def _noted(config: Path) -> bool:
    """Whether a `config.json` is what its checksum says."""
    try:
        found = json.loads(config.read_text())
        return found.pop(_CHECKSUM) == run_id(found)
    except (ValueError, AttributeError, LookupError, TypeError):
        return False
