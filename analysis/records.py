"""The records that an evaluation left, as a frame: one row per question."""

from pathlib import Path

import pandas as pd

from foveate.evaluation.records import RecordFolder


def read_records(out: Path, run_id: str) -> pd.DataFrame:
    """All records of a run, sorted by `sample_id`; see `foveate.evaluation.records.Record` for the columns.

    Args:
        out: Folder that holds `records/`.
        run_id: Name of the run's folder in `records/`.

    Raises:
        DataError: There are no records, or a question was recorded twice.
    """
    return RecordFolder(out / "records" / run_id).read().to_pandas()
