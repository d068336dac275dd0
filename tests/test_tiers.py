"""The fast tier holds one of everything, and what is not in it has a reason that is on the list."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

import foveate.testing
from foveate.testing.contracts import MergerContract, ScorerContract, SelectorContract
from foveate.testing.models import ModelContract
from tests.conftest import collected, pytest_collection_modifyitems
from tests.scripts import EXPERIMENTS, ROOT
from tests.tiers import REASONS, extended

CONTRACTS = {
    ScorerContract: "tests/scorers/test_scorers.py::TestEveryScorer",
    SelectorContract: "tests/selectors/test_selectors.py::TestEverySelector",
    MergerContract: "tests/mergers/test_mergers.py::TestEveryMerger",
    ModelContract: "tests/models/families/test_families.py::TestLLaVA15",
}
RUN_AS_A_PROCESS = {
    "ablate_budgets": "tests/experiments/test_experiments.py::test_the_budget_ablation_runs_along_a_fine_axis",
    "ablate_layers": "tests/experiments/test_experiments.py::test_the_ablation_writes_what_its_help_promises",
    "answer_benchmark": "tests/experiments/test_benchmarks.py::test_answers_are_written_for_the_graders",
    "compare_methods": "tests/experiments/test_compare.py::test_the_comparison_writes_what_its_help_promises",
    "measure_bias": "tests/experiments/test_measure_bias.py::test_the_measurement_writes_what_its_help_promises",
    "measure_speed": "tests/experiments/test_measure_speed.py::test_it_writes_what_its_help_promises",
    "recommend": "tests/experiments/test_recommend.py::test_the_recommendation_writes_what_its_help_promises",
    "reproduce_vtc_cls": "tests/experiments/test_reproduce.py::test_a_model_that_is_there_goes_through_the_whole_grid",
    "search_weights": "tests/experiments/test_search.py::test_the_search_writes_what_its_help_promises",
    "train_reference": "tests/reference_model/test_training.py::test_the_script_trains_the_first_stage",
}
ONE_OF_EACH = {
    "kill": "tests/faults/test_faults.py::test_no_fault_loses_a_result_or_lets_a_damaged_file_in[a kill",
    "Ctrl-C": "tests/evaluation/test_interruption.py::test_a_command_that_is_stopped_ends_with_one_line_and_resumes",
    "PostgreSQL": "tests/studies/test_workers.py::test_the_trial_of_a_killed_process_is_retried",
    "dashboard": "tests/studies/test_dashboard.py::test_the_dashboard_shows_goal_note_and_figure_of_a_trial",
    "notebook": "tests/experiments/test_notebooks.py::test_a_notebook_runs_draws_and_ends_with_an_answer_in_numbers",
    "authors' code": "tests/test_conformance.py::",
}


@pytest.fixture(scope="module")
def fast(request) -> list[str]:
    """All tests of the fast tier, also where only some tests are run."""
    if request.config.args == ["tests"]:
        return [name for name, is_extended in request.config.stash[collected].items() if not is_extended]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "not extended", "-p", "no:cacheprovider"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert listed.returncode == 0, listed.stdout + listed.stderr
    return [line for line in listed.stdout.splitlines() if "::" in line]


def held(fast: list[str], start: str) -> bool:
    return any(name.startswith(start) for name in fast)


def test_every_promise_of_a_contract_is_in_the_fast_tier(fast):
    modules = pkgutil.iter_modules(foveate.testing.__path__, "foveate.testing.")
    members = [value for module in modules for value in vars(importlib.import_module(module.name)).values()]
    classes = {value for value in members if inspect.isclass(value) and value.__name__.endswith("Contract")}
    assert classes == set(CONTRACTS)
    promises = [(place, name) for kind, place in CONTRACTS.items() for name in vars(kind) if name.startswith("test_")]
    assert len(promises) > 15
    assert [(place, name) for place, name in promises if not held(fast, f"{place}::{name}")] == []


def test_every_experiment_is_run_as_a_process_in_the_fast_tier(fast):
    assert {path.stem for path in EXPERIMENTS.glob("*.py")} == set(RUN_AS_A_PROCESS)
    for experiment, test in RUN_AS_A_PROCESS.items():
        assert held(fast, test), test
        assert f'"{experiment}"' in (ROOT / test.partition("::")[0]).read_text()
    assert [
        name for name in RUN_AS_A_PROCESS if f"test_help_imports_nothing_heavy[{name}.py]" not in "\n".join(fast)
    ] == []


@pytest.mark.parametrize("what", ONE_OF_EACH)
def test_one_of_each_is_in_the_fast_tier(what, fast):
    assert held(fast, ONE_OF_EACH[what])


@pytest.mark.parametrize(
    "mark",
    [pytest.mark.extended, pytest.mark.extended(), extended("taste"), pytest.mark.extended("every", "memory")],
    ids=["none", "empty", "unknown", "two"],
)
def test_a_reason_that_is_not_on_the_list_is_refused(mark):
    item = SimpleNamespace(nodeid="tests/here.py::test_this", iter_markers=lambda name: [mark.mark])
    with pytest.raises(pytest.UsageError, match=r"test_this: extended for .*; the reasons are every, moments"):
        pytest_collection_modifyitems(SimpleNamespace(stash=pytest.Stash()), [item])


def test_the_reasons_are_those_that_are_written_down():
    told = (ROOT / "docs" / "explanation" / "tests.md").read_text()
    assert [reason for reason in REASONS if f"| `{reason}` |" not in told] == []
