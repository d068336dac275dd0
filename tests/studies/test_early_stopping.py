"""Trials that are given up, on the shipped model, where one layer is good and another one hopeless."""

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
from foveate.studies.study import queue, run_trials
from foveate.studies.study_folder import StudyFolder
from tests.tiers import parametrize

GOOD, HOPELESS = 0, 5
IMAGES, ASKED = 40, 12


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    out = tmp_path_factory.mktemp("hope")
    return EvalConfig(Identity(), split="search", limit=IMAGES * ASKED, batch_size=96, out=out)


def searched(config, name, goals, max_loss, trials):
    """The space of single layers; its trials are all planned."""
    objective = Objective(
        config, space_of(SearchPlan(("single",), keep=(16,)), cached_load("reference")), goals, max_loss, stops=True
    )
    place = StudyFolder(name, config.out)
    _, study = open_study(place, objective, {}, {"samples": config.limit})
    queue(place, study, [Planned({"layer": layer}, source=source) for layer, source in trials])
    run_trials(place, study, objective)
    return study


def records_of(config, trial):
    return RecordFolder(config.out / "records" / trial.user_attrs["run_id"])


@parametrize(
    ("goals", "max_loss", "why"),
    [
        (("quality",), None, "WilcoxonPruner against trial 0"),
        (("accuracy", "tokens"), None, "dominated, optimistically seen, against trial 0"),
        (("quality",), 15.0, "loses more than 15 points of accuracy against the uncompressed model"),
    ],
    ids=["one goal", "several goals", "a limit on losses"],
)
def test_a_hopeless_trial_ends_early_with_the_value_that_its_rival_and_the_paired_gain_give(
    config, goals, max_loss, why, tmp_path
):
    config = replace(config, out=tmp_path)
    study = searched(config, "s", goals, max_loss, [(GOOD, "single"), (HOPELESS, "sampler")])
    good, bad = study.trials
    assert good.user_attrs["stopped"] == ""
    assert good.user_attrs["n"] == IMAGES * ASKED
    assert bad.user_attrs["stopped"].startswith(why)
    assert 32 * ASKED <= bad.user_attrs["n"] < IMAGES * ASKED
    assert not records_of(config, bad).complete
    assert winners(study) == [good]
    rival = records_of(config, good).read().to_pandas().set_index("sample_id")
    if max_loss is not None:
        full = next(
            f for f in (tmp_path / "records").iterdir() if f.name not in {t.user_attrs["run_id"] for t in study.trials}
        )
        rival = RecordFolder(full).read().to_pandas().set_index("sample_id")
    part = records_of(config, bad).read().to_pandas().set_index("sample_id")
    for goal, column in (("accuracy", "score"), ("quality", "log_probability")):
        gain = (part[column] - rival.loc[part.index, column]).mean()
        assert gain < 0
        assert bad.user_attrs[goal] == pytest.approx(rival[column].mean() + gain)


def test_what_the_report_rests_on_is_never_given_up_and_finishes_what_another_trial_left(config):
    """Trials of one compressor share their records."""
    study = searched(config, "given up", ("quality",), None, [(GOOD, "single"), (HOPELESS, "sampler")])
    assert not records_of(config, study.trials[1]).complete
    study = searched(config, "needed", ("quality",), None, [(GOOD, "single"), (HOPELESS, "single")])
    assert [trial.user_attrs["stopped"] for trial in study.trials] == ["", ""]
    assert records_of(config, study.trials[1]).complete
    assert study.trials[1].user_attrs["n"] == IMAGES * ASKED


def test_a_trial_that_was_given_up_is_given_up_at_the_same_question_whatever_befell_its_records(config, tmp_path):
    config = replace(config, out=tmp_path)

    def ended():
        study = searched(config, "s", ("quality",), None, [(GOOD, "single"), (HOPELESS, "sampler")])
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
