"""Several tables about the same questions, stored as one folder per batch that is renamed when it is complete."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from foveate.core.errors import DataError
from foveate.core.storage import checksummed, intact
from foveate.evaluation.records import RunFolder

SAMPLES = "samples"  # the table that has one row per question


class TableFolder(RunFolder):
    """A folder of tables, stored as `part-*/<table>.parquet`."""

    _PARTS = "part-*.????????????????"  # the checksum

    def done(self) -> frozenset[str]:
        files = [part / f"{SAMPLES}.parquet" for part in self.parts() if intact(part)]
        ids = [pq.read_table(path, columns=["sample_id"])["sample_id"].to_pylist() for path in files]
        return frozenset(sample_id for part in ids for sample_id in part)

    def append(self, batch: Mapping[str, pa.Table]) -> None:
        """Writes the tables of one batch, `SAMPLES` among them."""
        with checksummed(self.folder, f"part-{quote(batch[SAMPLES]['sample_id'][0].as_py(), safe='')}") as part:
            part.mkdir()
            for table, rows in batch.items():
                pq.write_table(rows, part / f"{table}.parquet")

    def read(self, table: str, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:  # noqa: ANN401
        """Returns a whole table; the arguments are those of `batches`."""
        return pa.concat_tables(self.batches(table, columns, filters))

    def batches(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        filters: Any = None,  # noqa: ANN401 (as in pyarrow)
    ) -> Iterator[pa.Table]:
        """Yields a table part by part; all rows about a question are in the same part.

        Args:
            table: Name of the table.
            columns: Columns to read; None means all.
            filters: Filters of `pyarrow.parquet.read_table`, applied while reading.

        Raises:
            DataError: The table does not exist, or a part is damaged or missing.
        """
        files = [path for part in self.intact_parts() if (path := part / f"{table}.parquet").exists()]
        if not files:
            raise DataError(f"no table {table!r} in {self.folder}: measure this configuration first")
        for path in files:
            yield pq.read_table(path, columns=None if columns is None else list(columns), filters=filters)
