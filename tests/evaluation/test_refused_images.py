"""Images that can be decoded and that the model's own image processor refuses."""

from dataclasses import replace

import pytest

from foveate.compressors import Identity
from foveate.core.errors import DataError
from foveate.evaluation import EvalConfig, evaluate
from foveate.testing.checkpoints import save_family
from tests.data import tables


def test_an_image_that_the_model_does_not_take_is_named_or_recorded_as_failed(tmp_path):
    """Qwen takes no image more than 200 times as long as it is high."""
    rows = [row for row in tables.pope_rows() if row["category"] == "random"]
    rows[2] |= {"image": tables.encoded_image(1, (8 * 300, 8)), "image_source": "lone"}
    place = tables.write(tmp_path / "pope.parquet", rows, tables.POPE)
    model = str(save_family("Qwen2.5-VL", tmp_path / "model"))
    config = EvalConfig(Identity(), model, f"pope:{place}", max_new_tokens=1, out=tmp_path / "runs")
    with pytest.raises(DataError, match="image 'lone': the model's image processor takes no image of '2400 x 8'"):
        evaluate(config)
    folder = evaluate(replace(config, on_error="skip"))
    assert folder.read().num_rows == len(rows) - 1
    ((name, why),) = folder.failed().items()
    assert name == "random-3" and "takes no image of '2400 x 8'" in why
