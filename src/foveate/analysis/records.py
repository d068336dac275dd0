"""Readers of the records that an evaluation wrote."""

from pathlib import Path

import pandas as pd

from foveate.evaluation.records import RecordFolder


def read_records(out: Path, run_id: str) -> pd.DataFrame:
    """Returns the records of a run, one row per question, sorted by `sample_id`.

    `foveate.evaluation.records.Record` documents the columns.

    Args:
        out: Folder that holds `records/`.
        run_id: Name of the run's folder in `records/`.

    Raises:
        DataError: There are no records, or a question was recorded twice.
    """
    return RecordFolder(out / "records" / run_id).read().to_pandas()


def failure_note(records: RecordFolder) -> str:
    """Returns the number of questions of a run that failed and the first error, or an empty string if none failed."""
    failed = records.failed()
    if not failed:
        return ""
    first = min(failed)
    return f"{len(failed)} questions failed and are in no number. The first, {first!r}: {failed[first]}"
