import shutil

import pytest

from foveate.compressors import Identity
from foveate.evaluation import EvalConfig, evaluate
from foveate.studies.forecast import forecast


def test_a_forecast_counts_the_encodings_that_are_not_stored_yet(tiny, tmp_path):
    config = EvalConfig(Identity(), model=tiny, split="search", limit=24, max_new_tokens=2, out=tmp_path)
    before = forecast(config, ["uniform"], [9])
    evaluate(config)
    shutil.rmtree(tmp_path / "records")
    after = forecast(config, ["uniform"], [9])
    (encodings,) = tmp_path.glob("encodings/*.arrow")
    assert (after.runs, after.answers) == (before.runs, before.answers)
    assert before.size - after.size == pytest.approx(encodings.stat().st_size, rel=0.2)
