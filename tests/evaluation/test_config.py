"""What a run is called, and what its name hangs on."""

import importlib.util
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from foveate.compressors import Identity, VisionCompressor
from foveate.core.errors import OptionError
from foveate.evaluation import EvalConfig, config
from foveate.evaluation.config import run_id
from foveate.methods import vtc_cls

PLUGIN = """
from dataclasses import dataclass
from foveate.core.contracts import Scorer

@dataclass(frozen=True)
class Mine(Scorer):
    @property
    def needs(self):
        return ()

    def score(self, trace):
        return {answer}
"""


def named(evaluation, checkpoint="weights", data="questions"):
    return run_id(evaluation.identity(checkpoint, data))


@pytest.mark.parametrize(
    "change",
    [
        {"compressor": vtc_cls(17, 1)},
        {"data": "pope"},
        {"split": "search"},
        {"max_new_tokens": 3},
        {"dtype": "bfloat16"},
        {"on_error": "skip"},
    ],
    ids=str,
)
def test_whatever_can_change_an_answer_changes_the_name(change):
    evaluation = EvalConfig(vtc_cls(16, 1), split="test")
    assert named(replace(evaluation, **change)) != named(evaluation)


def test_other_weights_questions_and_code_change_the_name(monkeypatch):
    evaluation = EvalConfig(Identity())
    names = {named(evaluation), named(evaluation, checkpoint="other"), named(evaluation, data="other")}
    monkeypatch.setattr(config, "code_hash", lambda: "other")
    assert len(names | {named(evaluation)}) == 4


def test_code_above_the_evaluation_does_not_change_the_name():
    above = ("analysis/", "commands/", "explore/", "studies/")
    assert all(name.startswith(config._CANNOT_CHANGE_AN_ANSWER) for name in (*above, "__main__.py", "cli.py"))
    assert not "models/runtime/greedy.py".startswith(config._CANNOT_CHANGE_AN_ANSWER)


def test_an_edited_plug_in_changes_the_name(tmp_path, monkeypatch):
    def written(answer):
        (tmp_path / "mine.py").write_text(PLUGIN.format(answer=answer))
        spec = importlib.util.spec_from_file_location("mine", tmp_path / "mine.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "mine", module)
        spec.loader.exec_module(module)
        return named(EvalConfig(VisionCompressor(module.Mine(), 16)))

    assert written(1) == written(1) != written(2)


@pytest.mark.parametrize("change", [{"batch_size": 3}, {"device": "cuda"}, {"loggers": ("csv",)}], ids=str)
def test_what_cannot_change_an_answer_does_not_change_the_name(change):
    evaluation = EvalConfig(Identity())
    assert named(replace(evaluation, **change)) == named(evaluation)


@pytest.mark.parametrize("change", [{"batch_size": 3}, {"device": "cuda"}], ids=str)
def test_in_half_precision_batches_and_devices_round_differently(change):
    evaluation = EvalConfig(Identity(), dtype="bfloat16")
    assert named(replace(evaluation, dtype="float16")) != named(evaluation)
    assert named(replace(evaluation, **change)) != named(evaluation)


def test_a_configuration_holds_plain_numbers_and_known_words_only():
    given = EvalConfig(Identity(), limit=np.int64(11), seed=torch.tensor(1), max_new_tokens=np.int64(3), batch_size=8.0)
    plain = EvalConfig(Identity(), limit=11, seed=1, max_new_tokens=3, batch_size=8)
    assert given == plain
    assert run_id(given.identity("checkpoint", "data")) == run_id(plain.identity("checkpoint", "data"))
    for wrong, expected in (
        ({"on_error": "ignore"}, "on_error='ignore': expected 'stop' or 'skip'"),
        ({"reuse": ("texts", "all")}, "reuse=('texts', 'all'): expected a tuple, each of its items 'encodings' or"),
        ({"max_new_tokens": 2.5}, "max_new_tokens=2.5: expected a whole number"),
        ({"limit": "11"}, "limit='11': expected a whole number or None"),
    ):
        with pytest.raises(OptionError) as refused:
            EvalConfig(Identity(), **wrong)
        assert expected in str(refused.value)
