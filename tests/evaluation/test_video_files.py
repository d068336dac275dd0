"""A benchmark of video files is answered and reported from its folder, as its command does."""

import json

import pytest

from foveate.analysis.benchmarks.answers import report_answers
from foveate.compressors import Identity
from foveate.evaluation import EvalConfig, evaluate
from foveate.metrics.videos import options_in
from foveate.testing.checkpoints import save_family
from tests.data import video_tables


@pytest.mark.parametrize("split", ["subset", "test"])
def test_egoschema_is_answered_from_its_files_and_reported(split, tmp_path):
    checkpoint = save_family("LLaVA-OneVision", tmp_path / "model")
    data = f"egoschema:{video_tables.egoschema(tmp_path / 'egoschema')}"
    config = EvalConfig(
        Identity(), model=str(checkpoint), data=data, split=split, frames=3, out=tmp_path / "out", device="cpu"
    )
    records = evaluate(config)
    (tmp_path / "report").mkdir()
    report_answers("full", "egoschema", records, tmp_path / "report")
    submission = json.loads((tmp_path / "report" / "submission.json").read_text())
    assert set(submission) == set(records.read()["sample_id"].to_pylist())
    assert all(number in range(5) for number in submission.values())
    assert all(
        options_in(text) == [f"C cuts {thing}." for thing in "vwxyz"] for text in records.read()["question"].to_pylist()
    )
    numbers = tmp_path / "report" / "benchmark.csv"
    assert "answers drawn at random" in numbers.read_text() if split == "subset" else not numbers.exists()
