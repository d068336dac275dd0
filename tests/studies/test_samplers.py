import optuna
import pytest
from optuna.samplers import NSGAIISampler, TPESampler

from foveate.studies import study as studies


@pytest.fixture(autouse=True)
def notes_are_new():
    studies._note_switch.cache_clear()


def test_trials_beyond_a_number_that_slows_tpe_down_come_from_nsga2_and_one_line_says_so(capsys):
    chosen = [type(studies._sampler("tpe", 0, begun)) for begun in (0, 2999, 3000, 5000)]
    assert chosen == [TPESampler, TPESampler, NSGAIISampler, NSGAIISampler]
    (line,) = capsys.readouterr().err.splitlines()
    assert "3,000" in line and "NSGA-II" in line and "TPE" in line


def test_other_samplers_are_never_replaced(capsys):
    assert type(studies._sampler("random", 0, 5000)) is optuna.samplers.RandomSampler
    assert not capsys.readouterr().err
