"""Trials that are stopped early, on the reference model, which cannot answer from one patch."""

import shutil
from dataclasses import replace

import pytest

from foveate.compressors import Identity
from foveate.evaluation import EvalConfig
from foveate.evaluation.records import RecordFolder
from foveate.evaluation.run import cached_load
from foveate.studies.objective import Objective
from foveate.studies.opening import open_study
from foveate.studies.plan import SearchPlan
from foveate.studies.search import space_of, winners
from foveate.studies.space import Planned
from foveate.studies.study import enqueue, run_trials
from foveate.studies.study_folder import StudyFolder
from tests.tiers import parametrize

GOOD, BAD = 144, 1  # patches
IMAGES, PER_IMAGE = 40, 7


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    out = tmp_path_factory.mktemp("stopping")
    return EvalConfig(Identity(), split="search", limit=IMAGES * PER_IMAGE, batch_size=8 * PER_IMAGE, out=out)


def searched(config, name, goals, max_loss, trials):
    """Runs a search of single layers and of numbers of patches, with the given trials of one layer."""
    space = space_of(SearchPlan(("single",), keep=(BAD, GOOD)), cached_load("reference"))
    objective = Objective(config, space, goals, max_loss, stops=True)
    folder = StudyFolder(name, config.out)
    _, study = open_study(folder, objective, {}, {"samples": config.limit})
    enqueue(folder, study, [Planned({"layer": 3, "keep": keep}, source=source) for keep, source in trials])
    run_trials(folder, study, objective)
    return study


def records_of(config, trial):
    return RecordFolder(config.out / "records" / trial.user_attrs["run_id"])


def test_a_search_for_several_goals_answers_all_questions(config, tmp_path):
    config = replace(config, out=tmp_path, limit=IMAGES * PER_IMAGE // 2)
    study = searched(config, "s", ("accuracy", "tokens"), None, [(GOOD, "single"), (BAD, "sampler")])
    assert [trial.user_attrs["stopped"] for trial in study.trials] == ["", ""]
    assert all(records_of(config, trial).complete for trial in study.trials)


@parametrize(
    ("goal", "max_loss"),
    [("quality", None), ("accuracy", None), ("quality", 15.0)],
    ids=["quality", "accuracy", "quality with a limit on lost accuracy"],
)
def test_a_bad_trial_is_stopped_with_the_value_that_the_best_one_and_the_paired_difference_give(
    config, goal, max_loss, tmp_path
):
    config = replace(config, out=tmp_path)
    study = searched(config, "s", (goal,), max_loss, [(GOOD, "single"), (BAD, "sampler")])
    good, bad = study.trials
    assert good.user_attrs["stopped"] == ""
    assert good.user_attrs["n"] == IMAGES * PER_IMAGE
    assert bad.user_attrs["stopped"].startswith("WilcoxonPruner against trial 0 after ")
    assert 32 * PER_IMAGE <= bad.user_attrs["n"] < IMAGES * PER_IMAGE
    assert not records_of(config, bad).complete
    assert winners(study) == [good]
    whole, part = (records_of(config, trial).read().to_pandas().set_index("sample_id") for trial in (good, bad))
    for name, column in (("accuracy", "score"), ("quality", "log_probability")):
        difference = (part[column] - whole.loc[part.index, column]).mean()
        assert difference < 0
        assert bad.user_attrs[name] == pytest.approx(whole[column].mean() + difference)
    assert bad.value == bad.user_attrs[goal]


def test_a_trial_that_the_report_needs_is_never_stopped_and_finishes_the_records_of_one_that_was(config):
    """Trials of one compressor share their records."""
    study = searched(config, "stopped", ("quality",), None, [(GOOD, "single"), (BAD, "sampler")])
    assert not records_of(config, study.trials[1]).complete
    study = searched(config, "needed", ("quality",), None, [(GOOD, "single"), (BAD, "single")])
    assert [trial.user_attrs["stopped"] for trial in study.trials] == ["", ""]
    assert records_of(config, study.trials[1]).complete
    assert study.trials[1].user_attrs["n"] == IMAGES * PER_IMAGE


def test_a_stopped_trial_is_stopped_at_the_same_question_again_after_its_records_were_damaged(config, tmp_path):
    config = replace(config, out=tmp_path)

    def ended():
        study = searched(config, "s", ("quality",), None, [(GOOD, "single"), (BAD, "sampler")])
        trial = study.trials[1]
        assert trial.user_attrs["stopped"]
        return trial.values, records_of(config, trial)

    values, records = ended()
    expected = records.read()
    first, *rest = sorted(records.parts(), key=lambda part: part.stat().st_mtime_ns)
    rest[1].write_bytes(rest[1].read_bytes()[:-1])
    with pytest.warns(UserWarning, match=f"damaged: .*{rest[1].name}"):
        assert ended()[1].read().equals(expected)
    for part in records.parts():  # as if killed after the first batch
        if part != first:
            part.unlink()
    shutil.rmtree(tmp_path / "s")
    again, records = ended()
    assert again == values
    assert records.read().equals(expected)
