import shutil
from contextlib import suppress
from dataclasses import replace

import optuna
import pytest
from filelock import FileLock
from optuna.trial import TrialState
from optuna_dashboard import get_note

from foveate.compressors import Identity
from foveate.core.arrangement import Grid
from foveate.core.errors import BudgetError, FoveateError, LayerError, OutputError
from foveate.evaluation import EvalConfig
from foveate.models.families.llava import Tower
from foveate.studies import objective
from foveate.studies.ablation import ablate, layer_choices, named_choices
from foveate.studies.notes import note_study
from foveate.studies.reports import differences
from foveate.studies.study_folder import StudyFolder
from foveate.testing.checkpoints import save_family

TOWER = Tower(depth=6, heads=4, feature_layer=4, has_cls=True, grid=Grid(12, 12))


@pytest.fixture
def config(tiny, tmp_path):
    return EvalConfig(Identity(), model=tiny, limit=11, max_new_tokens=2, out=tmp_path)


def in_folder(config, **options):
    return StudyFolder("s", config.out, **options)


def few(tower):
    return named_choices(tower, ("cls[2]",))[:3]


def test_the_grid_holds_every_layer_every_suffix_all_layers_and_the_controls():
    labels = [choice.label for choice in layer_choices(TOWER)]
    assert labels == [
        *(f"cls[{i}]" for i in range(6)),
        *(f"cls[{i}:]" for i in range(4)),
        "cls[all]",
        *("full", "blind", "evidence", "uniform", "saturation", "contrast", "edges"),
        *(f"random[{i}]" for i in range(5)),
    ]


def test_choices_can_be_named_and_counted_from_the_end():
    named = {choice.label: choice for choice in named_choices(TOWER, ("cls[-1]", "cls[-4:]", "cls[all]"))}
    assert {"cls[5]", "cls[2:]", "cls[all]", "full", "random[4]"} <= named.keys()
    assert named["cls[2:]"].layers == "2-4"
    with pytest.raises(FoveateError, match=r'"cls\(2\)" is unknown'):
        named_choices(TOWER, ("cls(2)",))
    with pytest.raises(LayerError, match="layer 6"):
        named_choices(TOWER, ("cls[6]",))
    with pytest.raises(LayerError, match=r"layers from 5.*start at 0\.\.4"):
        named_choices(TOWER, ("cls[5:]",))


def test_a_study_runs_each_cell_once_and_a_second_run_none(config):
    study = ablate(in_folder(config), config, few, (0.25, 7))
    cells = [(trial.params["scorer"], trial.params.get("keep")) for trial in study.trials]
    assert cells == [("cls[2]", 36), ("full", None), ("blind", None), ("cls[2]", 7)]
    for trial in study.trials:
        folder = config.out / "records" / trial.user_attrs["run_id"]
        assert (folder / "DONE").exists()
        assert 0 <= trial.user_attrs["accuracy"] <= 1
    again = ablate(in_folder(config), config, few, (0.25, 7))
    assert [trial.number for trial in again.trials] == [trial.number for trial in study.trials]


def test_no_best_trial_is_a_control_or_an_oracle(config):
    study = ablate(in_folder(config), config, lambda tower: named_choices(tower, ("cls[2]",)), (7,))
    values = {trial.params["scorer"]: (trial.value, trial.user_attrs) for trial in study.trials}
    value, attributes = values.pop("cls[2]")
    assert value == attributes["accuracy"] == study.best_value
    assert {"full", "blind", "evidence", "random[0]"} <= values.keys()
    for value, attributes in values.values():
        assert value == float("-inf") and 0 <= attributes["accuracy"] <= 1


def test_the_note_of_a_study_names_what_is_running_until_the_study_ends(config, monkeypatch):
    evaluate, notes = objective.evaluate, []

    def noted(cell, *options):
        url = f"sqlite:///{config.out / 's' / 'study.db'}"
        notes.append(get_note(optuna.load_study(study_name="s", storage=url)))
        return evaluate(cell, *options)

    monkeypatch.setattr(objective, "evaluate", noted)
    study = ablate(in_folder(config), config, few, (36, 7))
    assert len(set(notes)) == 1
    assert "4 trials of model" in notes[0] and "on 11 questions of `scenes`, split `test`" in notes[0]
    note_study(study, "the finding")
    assert get_note(ablate(in_folder(config), config, few, (36, 7))) == "# s\n\nthe finding"


@pytest.mark.parametrize("family", ["LLaVA-OneVision", "Qwen2.5-VL"])
def test_layers_of_towers_without_cls_are_ablated_by_their_fallbacks(config, tmp_path, family):
    save_family(family, tmp_path / "model")
    study = ablate(in_folder(config), replace(config, model=str(tmp_path / "model"), limit=6), few, (4,))
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    fallbacks = {t.params["scorer"]: t.user_attrs["compressor"].startswith("Fallback(") for t in study.trials}
    assert fallbacks == {"cls[2]": True, "full": False, "blind": False}


@pytest.mark.parametrize("failing", [1, 3, 4])
def test_a_study_goes_on_after_a_trial_that_failed_and_one_that_was_killed(config, monkeypatch, failing):
    evaluate, calls = objective.evaluate, []

    def fails_once(cell, *options):
        calls.append(cell)
        if len(calls) == failing:
            raise RuntimeError("the machine caught fire")
        return evaluate(cell, *options)

    monkeypatch.setattr(objective, "evaluate", fails_once)
    with pytest.raises(RuntimeError, match="caught fire"):
        ablate(in_folder(config), config, few, (36, 7))
    url = f"sqlite:///{config.out / 's' / 'study.db'}"
    killed = optuna.load_study(study_name="s", storage=url)
    killed.ask()  # a worker that died in the middle leaves a running trial
    study = ablate(in_folder(config), config, few, (36, 7))
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert len({(t.params["scorer"], t.params.get("keep")) for t in complete}) == 4


@pytest.mark.parametrize(
    "change", [{"limit": 22}, {"split": "search"}, {"max_new_tokens": 3}, {"dtype": "bfloat16"}], ids=str
)
def test_a_study_of_another_configuration_is_refused(config, change):
    ablate(in_folder(config), config, few, (7,))
    with pytest.raises(
        OutputError, match=rf"(?s)'s' exists with another.*{next(iter(change))}.*--fresh.*another --study"
    ):
        ablate(in_folder(config), replace(config, **change), few, (7,))
    with pytest.raises(OutputError, match=r"\n  keep: only there 7; only here 16\n"):
        ablate(in_folder(config), config, few, (16,))


@pytest.mark.parametrize("existing", ["refuse", "beside"])
def test_a_study_keeps_its_facts_when_another_configuration_asks_for_its_name(config, tmp_path, existing):
    first = ablate(in_folder(config), config, few, (7,))
    other = shutil.copytree(config.model, tmp_path / "model")  # another model is one of the facts
    with suppress(OutputError):
        ablate(in_folder(config, existing=existing), replace(config, model=str(other), limit=22), few, (7,))
    kept = optuna.load_study(study_name="s", storage=f"sqlite:///{config.out / 's' / 'study.db'}")
    assert kept.user_attrs == first.user_attrs
    assert kept.user_attrs["model"] == config.model


def test_the_old_study_is_moved_aside_and_the_new_one_starts_anew(config):
    old = ablate(in_folder(config), config, few, (7,))
    before = (config.out / "s" / "study.db").read_bytes()
    new = ablate(in_folder(config, existing="aside"), replace(config, limit=22), few, (7,))
    assert (new.study_name, new.user_attrs["identity"]["limit"]) == ("s", 22)
    assert (config.out / "s.old-1" / "study.db").read_bytes() == before
    again = ablate(in_folder(config, existing="aside"), replace(config, limit=22), few, (7,))
    assert len(again.trials) == len(new.trials) == len(old.trials)
    assert {path.name for path in config.out.glob("s*")} == {"s", "s.old-1", "s.old-2"}


def test_a_study_in_a_database_is_moved_aside_under_another_name(config, tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    values = [trial.values for trial in ablate(in_folder(config, storage=url), config, few, (7,)).trials]
    ablate(in_folder(config, storage=url, existing="aside"), replace(config, limit=22), few, (7,))
    kept = optuna.load_study(study_name="s.old-1", storage=url)
    assert [trial.values for trial in kept.trials] == values
    assert kept.user_attrs["identity"]["limit"] == config.limit


def test_a_study_that_runs_is_not_moved_aside(config):
    ablate(in_folder(config), config, few, (7,))
    with FileLock(config.out / "s" / "workers" / "someone"):
        with pytest.raises(OutputError, match="'s' is running, by worker someone"):
            ablate(in_folder(config, existing="aside"), config, few, (7,))
    assert (config.out / "s" / "study.db").exists()


def test_another_configuration_goes_to_a_folder_of_its_own_and_is_found_again_there(config, capsys):
    first = ablate(in_folder(config, existing="beside"), config, few, (7,))
    assert first.study_name == "s"
    assert ablate(in_folder(config, existing="beside"), config, few, (7,)).study_name == "s"
    second = ablate(in_folder(config, existing="beside"), replace(config, limit=22), few, (7,))
    assert second.study_name.startswith("s-")
    notice = capsys.readouterr().err
    assert (
        f"so this one is '{second.study_name}':\n" in notice and f"  limit: {config.limit} there, 22 here\n" in notice
    )
    third = ablate(in_folder(config, existing="beside"), replace(config, limit=22), few, (7,))
    assert third.study_name == second.study_name
    assert len(list(config.out.glob("s-*"))) == 1


@pytest.mark.parametrize(
    ("there", "here", "lines"),
    [
        ({"limit": 4}, {"limit": 5}, ["limit: 4 there, 5 here"]),
        ({"a": 1, "limit": None}, {"a": 1, "limit": 5}, ["limit: None there, 5 here"]),
        ({"keep": [9, 4]}, {"keep": [9, 2]}, ["keep: only there 4; only here 2"]),
        ({"keep": [9, 4]}, {"keep": [4, 9]}, ["keep: in another order"]),
        (
            {"scorers": {"a": "1", "b": "2"}},
            {"scorers": {"a": "3", "c": "2"}},
            ["scorers: only there b; only here c; changed a"],
        ),
        (
            {"code": "1"},
            {"code": "2"},
            ["code: other than there (foveate's code, or the version of torch or transformers)"],
        ),
        ({"old": "x" * 999}, {}, [f"old: '{'x' * 57}...{'x' * 58}' there, None here"]),
        ({"goals": ["a"]}, {"goals": ("a",)}, []),
        (
            {"scorers": dict.fromkeys("abcdefgh", "1")},
            {"scorers": {}},
            ["scorers: only there a, b, c, d, e, f and 2 more"],
        ),
    ],
)
def test_only_what_differs_is_named(there, here, lines):
    assert differences(there, here) == lines


@pytest.mark.parametrize("keep", [0, 145, 1.2])
def test_bad_budgets_are_refused_before_anything_runs(config, keep):
    with pytest.raises(BudgetError, match=f"keep={keep}"):
        ablate(in_folder(config), config, few, (7, keep))
    assert not (config.out / "s").exists()


def test_no_budget_and_an_unusable_storage_are_refused(config):
    with pytest.raises(BudgetError, match="no budget"):
        ablate(in_folder(config), config, few, ())
    with pytest.raises(OutputError, match="'nosql://here' cannot be used"):
        ablate(in_folder(config, storage="nosql://here"), config, few, (7,))
