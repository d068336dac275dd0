"""`foveate.compare` returns the table of a comparison."""

import logging
import subprocess
import sys
import warnings

import pandas as pd
import pytest

import foveate
from foveate.core.errors import OptionError, UnknownMethod
from foveate.core.quiet import quiet
from foveate.options import Options
from foveate.studies import comparison


def test_a_comparison_from_python_is_a_frame_and_quiet(tiny, tmp_path, capfd):
    options = {"model": tiny, "keep": (40,), "out": tmp_path, "limit": 7, "max_new_tokens": 1}
    frame = foveate.compare(["vtc_cls"], "scenes", **options)
    assert isinstance(frame, pd.DataFrame)
    assert {"vtc_cls", "full", "random", "pool"} <= {*frame["method"]}
    assert set(frame["n"]) == {7}
    captured = capfd.readouterr()
    assert captured.out == "" and "Tip" not in captured.err and "arning" not in captured.err
    pd.testing.assert_frame_equal(foveate.compare(["vtc_cls"], "scenes", **options), frame)


def test_an_unknown_method_is_named():
    with pytest.raises(UnknownMethod, match="'vtc_clss' is unknown"):
        foveate.compare(["vtc_clss"])


@pytest.mark.parametrize("given", [{"methods": "vtc_cls"}, {"methods": ["vtc_cls"], "keep": 0.25}], ids=str)
def test_a_single_method_or_budget_is_an_error_that_shows_the_list(given):
    with pytest.raises(OptionError, match=r"expected a list of .*, such as \[('vtc_cls'|0.25)\]"):
        foveate.compare(**given)


def test_the_longest_answer_is_that_of_the_data_set_as_in_the_command(tmp_path, monkeypatch):
    configs = []

    def stopped(folder, config, *rest):
        configs.append(config)
        raise InterruptedError

    monkeypatch.setattr(comparison, "compare", stopped)
    with pytest.raises(InterruptedError):
        foveate.compare(["vtc_cls"], "mmvet", out=tmp_path)
    command = Options("compare_methods", data=("mmvet",), out=tmp_path).config
    assert configs[0].max_new_tokens == command.max_new_tokens != 32


def test_levels_and_filters_are_as_before_after_a_quiet_block():
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    before = logger.level, [*warnings.filters]
    with quiet():
        assert logger.level == logging.WARNING
    assert (logger.level, [*warnings.filters]) == before


def test_the_package_can_be_imported_without_pandas():
    code = "import sys; sys.modules['pandas'] = None; import foveate; print('compare' in dir(foveate), *sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == "True" and "torch" not in said
