"""The records that an evaluation left, as a frame: one row per question."""

from pathlib import Path

import pandas as pd

from foveate.core.errors import DataError


def read_records(out: Path, run_id: str) -> pd.DataFrame:
    """All records of a run, sorted by `sample_id`.

    Args:
        out: Folder that holds `records/`.
        run_id: Name of the run's folder in `records/`.

    Returns:
        One row per question, with the columns that the evaluation wrote.

    Raises:
        DataError: There are no records, or a question was recorded twice.
    """
    folder = out / "records" / run_id
    parts = sorted(folder.glob("part-*.parquet"))
    if not parts:
        raise DataError(f"no records in {folder}: expected part-*.parquet; evaluate this configuration first")
    frame = pd.concat([pd.read_parquet(part) for part in parts])
    twice = frame.loc[frame["sample_id"].duplicated(), "sample_id"]
    if len(twice):
        raise DataError(
            f"{len(twice)} questions stand twice in {folder}, the first is {twice.iloc[0]!r}: remove the folder and "
            "evaluate again"
        )
    return frame.sort_values("sample_id", ignore_index=True)
