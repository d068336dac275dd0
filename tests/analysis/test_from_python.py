"""`foveate.compare` and `foveate.evaluate` return frames."""

import logging
import subprocess
import sys
import warnings

import pandas as pd
import pytest

import foveate
from foveate.analysis.records import read_records
from foveate.compressors import Identity
from foveate.core.errors import OptionError, UnknownMethod
from foveate.core.quiet import quiet
from foveate.data import write_template
from foveate.evaluation import EvalConfig
from foveate.evaluation.records import Record
from foveate.methods import vtc_cls
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


def test_an_evaluation_from_python_takes_a_recipe_file_with_its_own_budget(tiny, tmp_path):
    vtc_cls(keep=20, start_layer=0).save(tmp_path / "mine.json")
    frame = foveate.evaluate(str(tmp_path / "mine.json"), model=tiny, out=tmp_path, limit=7, max_new_tokens=1)
    assert set(frame["tokens"]) == {20}


def test_an_evaluation_from_python_is_a_frame_of_its_records_and_quiet(tiny, tmp_path, capfd):
    options = {"model": tiny, "keep": 0.25, "out": tmp_path, "limit": 7, "max_new_tokens": 1}
    frame = foveate.evaluate("vtc_cls", **options)
    captured = capfd.readouterr()
    assert captured.out == "" and "Tip" not in captured.err and "arning" not in captured.err
    (run,) = (tmp_path / "records").iterdir()
    pd.testing.assert_frame_equal(frame, read_records(tmp_path, run.name))
    assert list(frame) == [*Record.__annotations__] and len(frame) == 7
    equivalent = foveate.load(tiny).adapter.tower.grid.patches / 4
    assert all(tokens.mean() == pytest.approx(equivalent, abs=1) for tokens in frame["tokens_per_block"])
    pd.testing.assert_frame_equal(foveate.evaluate("vtc_cls", **options), frame)


def test_a_question_that_cannot_be_answered_is_a_row_with_its_reason(tiny, tmp_path):
    table = write_template(tmp_path / "photos")
    first, *others = table.read_text().splitlines()
    table.write_text("\n".join([first.replace("images/", "lost/"), *others]))
    frame = foveate.evaluate("full", str(table), tiny, out=tmp_path, on_error="skip", max_new_tokens=1)
    assert [bool(error) for error in frame["error"]] == [True, *[False] * len(others)]
    assert "lost/" in frame["error"][0] and frame["score"].isna()[0]


def test_an_unknown_method_is_named():
    with pytest.raises(UnknownMethod, match="'vtc_clss' is unknown"):
        foveate.evaluate("vtc_clss")
    with pytest.raises(UnknownMethod, match="'vtc_clss' is unknown"):
        foveate.compare(["vtc_clss"])


@pytest.mark.parametrize("given", [{"methods": "vtc_cls"}, {"methods": ["vtc_cls"], "keep": 0.25}], ids=str)
def test_a_single_method_or_budget_is_an_error_that_shows_the_list(given):
    with pytest.raises(OptionError, match=r"expected a list of .*, such as \[('vtc_cls'|0.25)\]"):
        foveate.compare(**given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"method": ["vtc_cls"]},
            "expected the name of one method, such as 'vtc_cls'.*several methods to foveate.compare",
        ),
        ({"method": EvalConfig(Identity())}, r"a compressor goes to foveate.evaluation.evaluate\(EvalConfig\("),
        ({"method": "vtc_cls", "keep": (0.25,)}, "expected one budget, such as 0.25; foveate.compare takes several"),
    ],
    ids=["several methods", "a configuration", "several budgets"],
)
def test_an_evaluation_takes_one_method_and_one_budget(given, expected):
    with pytest.raises(OptionError, match=expected):
        foveate.evaluate(**given)


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
