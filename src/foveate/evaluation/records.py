"""Records on disk: one folder per run, one parquet part per batch, each renamed into place when it is whole."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from foveate.core.errors import OutputError


@dataclass(frozen=True)
class Record:
    """What became of one question.

    Attributes:
        sample_id: Of the question.
        image_id: Of the picture.
        kind: Question type.
        question: As asked.
        reference: The reference answers, separated by " | ".
        prediction: The model's answer.
        score: In [0, 1]; how is the sample's `scoring`.
        kept: Kept patches in raster order.
        tokens: Visual tokens that the language model was given.
        evidence_recall: See `metrics.evidence`; NaN when the evidence is unknown.
        things_kept: Likewise.
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
    evidence_recall: float
    things_kept: float


_COLUMN_TYPES = {str: pa.string(), float: pa.float64(), int: pa.int64(), list[int]: pa.list_(pa.int32())}
SCHEMA = pa.schema([(name, _COLUMN_TYPES[kind]) for name, kind in Record.__annotations__.items()])


class RecordFolder:
    """The records of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, identity: dict[str, str | int | None]) -> "RecordFolder":
        """Makes the folder and writes down what the run is.

        Raises:
            OutputError: The place cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _replace(folder / "config.json", json.dumps(identity, indent=1).encode())
        except OSError as error:
            raise OutputError(
                f"records cannot be written to {folder}: {error.strerror}; choose another --out"
            ) from error
        return cls(folder)

    @property
    def complete(self) -> bool:
        return (self.folder / "DONE").exists()

    def finish(self) -> None:
        _replace(self.folder / "DONE", b"")

    def done(self) -> frozenset[str]:
        """Ids of the questions that are already answered."""
        parts = sorted(self.folder.glob("part-*.parquet"))
        return frozenset(
            i for part in parts for i in pq.read_table(part, columns=["sample_id"])["sample_id"].to_pylist()
        )

    def append(self, records: Sequence[Record]) -> None:
        """Writes one part, named after its first question."""
        table = pa.Table.from_pylist([asdict(record) for record in records], schema=SCHEMA)
        path = self.folder / f"part-{records[0].sample_id.replace('/', '_')}.parquet"
        unfinished = path.with_suffix(".tmp")
        pq.write_table(table, unfinished)
        os.replace(unfinished, path)

    def read(self) -> pa.Table:
        """All records, by sample id."""
        parts = [pq.read_table(part, schema=SCHEMA) for part in sorted(self.folder.glob("part-*.parquet"))]
        return pa.concat_tables(parts).sort_by("sample_id")


def _replace(path: Path, content: bytes) -> None:
    unfinished = path.with_suffix(".tmp")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)
