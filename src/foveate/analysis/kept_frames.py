"""Kept patches of example videos: a figure per comparison and one per run."""

import textwrap
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import pandas as pd
import pyarrow as pa
from matplotlib.figure import Figure

from foveate.analysis.cells import Cell
from foveate.analysis.clips import KeptClip, contact_sheet, kept_clip, scaled, with_kept
from foveate.analysis.drawing import mark_of, readable
from foveate.analysis.records import read_records
from foveate.data.sample import LazyMapping, VQASample
from foveate.evaluation.evidence import evidence_of
from foveate.models.loading.load import LoadedModel

_SIDE = 192  # pixels of the longer side of a frame
_NOTE = (
    "Above each frame: its time and its kept patches, after the last block. Dropped patches are grey{}. The question "
    "was chosen because the answers differ, so it is not representative."
)


def clips_of(samples: Sequence[VQASample], loaded: LoadedModel) -> LazyMapping[KeptClip]:
    """Returns the videos of questions with all patches and the evidence, by `sample_id`, each opened at its lookup."""

    def whole(sample: VQASample) -> KeptClip:
        clip, (_, (video,)) = sample.clip, loaded.video_inputs([sample.clip])
        share = evidence_of([sample], [video])[0] if sample.things.known else None
        return kept_clip(scaled(clip, _SIDE), video, range(video.patches), (), share)

    return LazyMapping({sample.id: sample for sample in samples if sample.video and not sample.problem}, whole)


def kept_frames_figure(cells: Sequence[Cell], out: Path, videos: Mapping[str, KeptClip]) -> Figure | None:
    """Draws one question about a video, with a row per cell and a column per frame.

    Args:
        cells: One cell per row, in this order.
        out: Folder that holds `records/`.
        videos: The videos by `sample_id`.

    Returns:
        The figure; None if no question about a video was answered.
    """
    frames = [read_records(out, cell.run_id).set_index("sample_id").sort_index() for cell in cells]
    answered = [frame[(frame["error"] == "") & frame.index.isin(list(videos))] for frame in frames]
    if answered[0].empty:
        return None
    scores = pd.concat([frame["score"] for frame in answered], axis=1)
    ranked = answered[0].assign(right=scores.iloc[:, 0] == 1, spread=scores.std(axis=1, ddof=0).round(9))
    name = ranked.sort_values(["right", "spread"], ascending=False, kind="stable").index[0]
    whole, first = videos[name], answered[0].loc[name]
    rows = {}
    for cell, frame in zip(cells, answered, strict=True):
        row = frame.loc[name]
        answer = textwrap.shorten(row["prediction"], 20) or "(empty answer)"
        label = f"{readable(cell.scorer, cell.family, cell.layers)}\n{mark_of(row['score'])[0]} {answer}"
        rows[label] = with_kept(whole, row["kept"])
    title = f"{textwrap.shorten(first['question'], 160)} Answer: {first['reference']}"
    return contact_sheet(rows, title, _NOTE.format("" if whole.evidence is None else ", and evidence is outlined"))


def kept_frames_of_run(records: pa.Table, videos: Mapping[str, KeptClip]) -> bytes:
    """Returns a PNG of the kept patches of a run, for its first question about a video; empty if there is none."""
    rows = {row["sample_id"]: row for row in records.to_pylist() if not row["error"]}
    name = next((name for name in videos if name in rows), None)
    if name is None:
        return b""
    row, png = rows[name], BytesIO()
    sheet = contact_sheet({row["prediction"]: with_kept(videos[name], row["kept"])}, row["question"], "")
    sheet.savefig(png, format="png", dpi=100)
    return png.getvalue()
