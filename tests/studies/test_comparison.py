from pathlib import Path

import pytest
from optuna.trial import TrialState

from foveate.compressors import Identity
from foveate.core.errors import BudgetError, FoveateError, OutputError, UnknownMethod
from foveate.evaluation import EvalConfig
from foveate.profiling.shapes import DecoderShape
from foveate.studies.comparison import CONTROLS, compare
from foveate.studies.study_folder import StudyFolder

OWN = """
from foveate.compressors import VisionCompressor
from foveate.methods import random
from foveate.scorers import ReceivedAttention


def long_tokens(keep):
    return VisionCompressor(ReceivedAttention(-1), keep)


def fastv(keep):
    return long_tokens(keep)
"""


@pytest.fixture
def config(tiny, tmp_path):
    return EvalConfig(Identity(), model=tiny, limit=11, max_new_tokens=2, out=tmp_path)


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    (tmp_path / "own_methods.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def labels(study) -> list[str]:
    return list(dict.fromkeys(trial.params["scorer"] for trial in study.trials))


def test_controls_are_always_evaluated_and_seeds_are_rows(config):
    study = compare(StudyFolder("s", config.out), config, ("fastv",), (72,), seeds=range(2))
    expected = {*CONTROLS, "fastv", "random[0]", "random[1]", "random_inside[0]", "random_inside[1]"}
    assert set(labels(study)) == expected - {"random", "random_inside"}
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)
    assert study.user_attrs["roles"] == dict.fromkeys(CONTROLS, "control") | {"fastv": "decoder"}


def test_every_cell_costs_the_language_model_about_its_budget(config):
    study = compare(StudyFolder("s", config.out), config, ("vispruner", "pyramiddrop", "vscan"), (0.5,), seeds=(0,))
    cells = {trial.params["scorer"]: trial.user_attrs for trial in study.trials}
    for label, cell in cells.items():
        if label not in ("full", "blind"):
            assert cell["tokens"] == pytest.approx(72, rel=0.05), label
    assert cells["pyramiddrop"]["given"] == cells["full"]["tokens"] == 144
    assert cells["vscan"]["tokens"] < 144
    roles = {name: study.user_attrs["roles"][name] for name in ("vispruner", "pyramiddrop", "vscan")}
    assert roles == {"vispruner": "vision", "pyramiddrop": "decoder", "vscan": "both"}


def test_a_budget_out_of_reach_is_no_cell_and_its_reason_is_kept(config):
    study = compare(StudyFolder("s", config.out), config, ("fastv", "fastervlm"), (72, 16), seeds=(0,))
    left_out = study.user_attrs["left_out"]
    assert left_out["fastv"].keys() == left_out["random_inside"].keys() == {"16"}
    assert "fastv cannot come near 16 equivalent tokens of 144" in left_out["fastv"]["16"]
    pruned = study.get_trials(states=(TrialState.PRUNED,))
    assert {(t.params["scorer"], t.params["keep"]) for t in pruned} == {("fastv", 16), ("random_inside[0]", 16)}
    assert pruned[0].user_attrs["left_out"] in {left_out["fastv"]["16"], left_out["random_inside"]["16"]}
    again = compare(StudyFolder("s", config.out), config, ("fastv", "fastervlm"), (72, 16), seeds=(0,))
    assert len(again.trials) == len(study.trials)


def test_a_method_that_reaches_no_budget_is_no_choice(config):
    study = compare(StudyFolder("s", config.out), config, ("fastv",), (16,), seeds=(0,))
    assert "fastv" not in labels(study)
    assert "fastv" in study.user_attrs["left_out"]


def test_a_method_that_the_model_cannot_run_is_named_with_its_reason(config):
    study = compare(StudyFolder("s", config.out), config, ("cdpruner", "divprune"), (16,), seeds=(0,))
    assert "companion" in study.user_attrs["not_applicable"]["cdpruner"]
    assert "cdpruner" not in labels(study) and "divprune" in labels(study)


def test_the_language_model_is_described_for_counting(config):
    facts = compare(StudyFolder("s", config.out), config, (), (16,), seeds=(0,)).user_attrs
    assert DecoderShape(**facts["decoder"]) == DecoderShape(8, 128, 320, 4, 4, 32)
    assert (facts["patches"], facts["grid"], facts["depth"], facts["decoder_depth"]) == (144, [12, 12], 8, 8)


def test_a_users_method_is_called_by_its_function(config, own):
    study = compare(StudyFolder("s", config.out), config, ("own_methods:long_tokens",), (16,), seeds=(0,))
    assert study.user_attrs["roles"]["long_tokens"] == "vision"
    (trial,) = [trial for trial in study.trials if trial.params["scorer"] == "long_tokens"]
    assert trial.user_attrs["compressor"].startswith("VisionCompressor(scorer=ReceivedAttention(")


@pytest.mark.parametrize("names", [("own_methods:fastv",), ("own_methods:random", "fastervlm")])
def test_a_users_method_cannot_take_a_known_name(config, own, names):
    with pytest.raises(FoveateError, match=r"is the name of another method; rename the function"):
        compare(StudyFolder("s", config.out), config, names, (16,))


@pytest.mark.parametrize(
    ("methods", "equivalents", "error", "message"),
    [
        (("fastvv",), (16,), UnknownMethod, "did you mean fastv"),
        (("nowhere:recipe",), (16,), UnknownMethod, "cannot be imported"),
        (("fastv",), (), BudgetError, "no budget"),
        (("fastv",), (500,), BudgetError, "keep=500"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_runs(config, methods, equivalents, error, message):
    with pytest.raises(error, match=message):
        compare(StudyFolder("s", config.out), config, methods, equivalents)
    assert not (config.out / "s").exists()


def test_a_comparison_of_other_methods_under_the_same_name_is_refused(config):
    compare(StudyFolder("s", config.out), config, (), (16,), seeds=(0,))
    with pytest.raises(OutputError, match="exists with another configuration"):
        compare(StudyFolder("s", config.out), config, ("divprune",), (16,), seeds=(0,))
