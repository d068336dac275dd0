"""Several tables about the same questions: a folder per batch, which is renamed into place when it is whole."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from foveate.core.errors import DataError
from foveate.evaluation.records import RunFolder

SAMPLES = "samples"  # the table that has one row per question


class TableFolder(RunFolder):
    """Tables as `part-*/<table>.parquet`."""

    def done(self) -> frozenset[str]:
        ids = [pq.read_table(path, columns=["sample_id"])["sample_id"].to_pylist() for path in self._files(SAMPLES)]
        return frozenset(sample_id for part in ids for sample_id in part)

    def append(self, batch: Mapping[str, pa.Table]) -> None:
        """Writes the tables of one batch, `SAMPLES` among them."""
        for stale in self.folder.glob(".part-*"):  # of a process that was killed; this one holds the lock
            shutil.rmtree(stale)
        name = f"part-{quote(batch[SAMPLES]['sample_id'][0].as_py(), safe='')}"
        temporary = self.folder / f".{name}"
        temporary.mkdir()
        for table, rows in batch.items():
            pq.write_table(rows, temporary / f"{table}.parquet")
        os.rename(temporary, self.folder / name)

    def read(self, table: str, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:  # noqa: ANN401
        """One table as a whole; otherwise as `batches`."""
        return pa.concat_tables(self.batches(table, columns, filters))

    def batches(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        filters: Any = None,  # noqa: ANN401 (as in pyarrow)
    ) -> Iterator[pa.Table]:
        """One table, part after part; all rows about a question are in the same part.

        Args:
            table: Its name.
            columns: Only these.
            filters: As in `pyarrow.parquet.read_table`; rows that do not pass are not held.

        Raises:
            DataError: There is none.
        """
        if not (files := self._files(table)):
            raise DataError(f"no table {table!r} in {self.folder}: measure this configuration first")
        for path in files:
            yield pq.read_table(path, columns=None if columns is None else list(columns), filters=filters)

    def _files(self, table: str) -> list[Path]:
        return sorted(self.folder.glob(f"part-*/{table}.parquet"))
