"""What one run on a benchmark shows, and the file for the benchmark's own evaluation."""

from pathlib import Path

from analysis.ablation.data import Cell
from analysis.benchmarks.data import failures, write_numbers
from analysis.benchmarks.submissions import SUBMISSIONS, write_submission
from analysis.records import read_records
from foveate.evaluation.records import RecordFolder


def report_answers(method: str, data: str, records: RecordFolder, folder: Path) -> str:
    """Writes the numbers of a run if its answers could be scored, and its submission; returns the text to be printed.

    Args:
        method: What answered.
        data: Name of the data set.
        records: Of the run.
        folder: Where to write.
    """
    out, run_id = records.folder.parents[1], records.folder.name
    frame = read_records(out, run_id)
    tokens = frame.loc[frame["has_image"], "tokens"]
    cells = [Cell(method, method, "", round(tokens.mean()) if len(tokens) else 0, run_id)]
    said = [f"{len(frame):,} questions of {data} answered, {len(frame) - len(tokens):,} of them without an image."]
    if frame["score"].notna().all():
        said.append(f"Mean score {100 * frame['score'].mean():.1f} %.")
        said.append(write_numbers(data, cells, out, folder))
    if data in SUBMISSIONS:
        write_submission(data, frame, folder / "submission.json")
        said.append(f"For the benchmark's own evaluation: {folder / 'submission.json'}")
    return "\n".join(part for part in [*said, failures(cells, out)] if part)
