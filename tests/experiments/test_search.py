"""A search as a user runs it, and its numbers against independent ones."""

import numpy as np
import optuna
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import spearmanr

import foveate
from foveate.analysis.records import read_records
from foveate.analysis.search.confirmed import confirmed_table, optimism
from foveate.analysis.search.data import proxy_data, saving_data, trials_table, weights_data
from foveate.analysis.search.report import report
from foveate.compressors import Identity
from foveate.core.errors import OutputError
from foveate.evaluation import EvalConfig
from foveate.evaluation.identity import identity_of
from foveate.studies.context import StudyContext
from foveate.studies.plan import SearchPlan
from foveate.studies.proxy import rank_by_proxy
from foveate.studies.search import confirm, search, space_of, winners
from foveate.studies.study_folder import StudyFolder
from tests.scripts import run
from tests.tiers import parametrize

FIGURES = ("history", "importance", "weights", "proxy", "test")


def command(tiny, out, *more):
    return run("search_weights", "--model", tiny, "--limit", "12", "--candidates", "40", "--out", str(out), *more)


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("search")
    result = command(tiny, out, "--trials", "40")
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def load(out, name="search_weights"):
    return optuna.load_study(study_name=name, storage=f"sqlite:///{out}/search_weights/study.db")


def confirmed(out):
    name = next(path.name for path in out.iterdir() if path.name.startswith("search_weights_test_"))
    return optuna.load_study(study_name=name, storage=f"sqlite:///{out}/{name}/study.db")


def test_the_search_writes_what_its_help_promises(finished):
    out, printed = finished
    for name in FIGURES:
        with Image.open(out / "search_weights" / f"{name}.png") as image:
            assert image.width > 800
    assert "| single range weights | quality | 40 |" in printed
    assert "| agreement with response | accuracy |" in printed
    assert "| winner | " in printed and "Too few images for any test (n = " in printed
    table = pd.read_csv(out / "search_weights" / "table.csv")
    assert {"winner", "best single layer", "uniform ensemble", "published default", "random"} <= set(table["scorer"])
    study = load(out)
    assert study.metric_names == ["quality"]
    winner = foveate.load_recipe(out / "search_weights" / "recipe.json")
    assert identity_of(winner, "compressor") == winners(study)[0].user_attrs["compressor_id"]
    assert f"Recipe files: {out / 'search_weights' / 'recipe.json'}" in printed
    sources = [trial.user_attrs.get("source", "sampler") for trial in study.trials]
    assert sources[0] == "default"
    assert {"ensemble", "single", "spaced", "proxy", "sampler"} <= set(sources)


def test_a_second_run_adds_nothing_and_more_trials_go_on(finished, tiny):
    out, printed = finished
    before = [trial.datetime_complete for trial in load(out).trials]
    again = command(tiny, out, "--trials", "40")
    assert again.stdout == printed
    assert again.stderr.count("Nothing was left to do") == 1
    assert [trial.datetime_complete for trial in load(out).trials] == before
    more = command(tiny, out, "--trials", "42")
    assert "| quality | 42 |" in more.stdout
    assert [trial.datetime_complete for trial in load(out).trials][:40] == before


@parametrize(
    ("more", "says"),
    [
        (("--space", "range", "--study", "search_weights"), "kinds: only there single, weights"),
        (("--goals", "tokens"), "add quality or accuracy to the goals, or limit the points of accuracy"),
        (("--report-split", "search"), "is the split that is searched"),
        (("--report-split", "tset"), "split .tset. of .scenes. is unknown"),
        (("--space", "colours"), "'colours' is unknown: known are single"),
        (("--space", "fastv", "--open", "layre=1:2"), "'layre' of fastv is unknown"),
        (("--storage", "nosql://x"), "nosql://x.*cannot be used"),
    ],
    fast=2,
    ids=str,
)
def test_an_error_that_a_user_can_resolve_is_one_line(finished, tiny, more, says):
    result = command(tiny, finished[0], "--trials", "40", *more)
    assert result.returncode == 2
    line = " ".join(result.stderr.split())
    assert "Traceback" not in line
    assert pd.Series([line]).str.contains(says).all(), line


def test_the_report_agrees_with_the_records(finished):
    out, _ = finished
    study, test = load(out), confirmed(out)
    table = confirmed_table(study, test, out).set_index("scorer")
    winner = winners(study)[0]
    assert winner.value == study.best_value
    assert winner.value == pytest.approx(read_records(out, winner.user_attrs["run_id"])["log_probability"].mean())
    runs = {t.params["scorer"]: t.user_attrs["run_id"] for t in test.trials}
    frames = {name: read_records(out, run) for name, run in runs.items()}
    for name in ("winner", "best single layer", "full"):
        assert table.loc[name, "accuracy"] == pytest.approx(frames[name]["score"].mean())
        assert table.loc[name, "log_probability"] == pytest.approx(frames[name]["log_probability"].mean())
    gained = frames["winner"]["score"] - frames["uniform ensemble"]["score"]
    assert table.loc["uniform ensemble", "winner_gains"] == pytest.approx(gained.mean())
    searched = read_records(out, winner.user_attrs["run_id"])
    expected = searched.groupby("image_id")["score"].mean().mean()
    expected -= frames["winner"].groupby("image_id")["score"].mean().mean()
    assert table.loc["winner", "optimism"] == pytest.approx(expected)
    interval = optimism(searched, frames["winner"])
    assert interval.low <= interval.mean <= interval.high
    saved = saving_data(study)
    assert saved.answered == sum(len(read_records(out, run)) for run in {t.user_attrs["run_id"] for t in study.trials})
    proxy = proxy_data(study)
    expected = spearmanr(proxy.trials["agreement"], proxy.trials["quality"])[0]
    assert proxy.correlations["agreement", "quality"].value == pytest.approx(expected)
    weights = weights_data(study, winners(study))
    np.testing.assert_allclose(weights.groupby(["role", "trial"])["weight"].sum(), 1)
    assert len(trials_table(study)) == len(study.trials)


def test_the_ranking_of_the_proxy_equals_a_ranking_by_records(tiny, tmp_path):
    config = EvalConfig(Identity(), model=tiny, split="search", limit=22, max_new_tokens=2, out=tmp_path)
    plan = SearchPlan(candidates=12, proxy="evidence", trials=1)
    context = StudyContext.of(config)
    proxy = rank_by_proxy(context, space_of(plan, context.loaded), "evidence", 12, 0)
    folder = StudyFolder("s", tmp_path)
    study = search(folder, config, plan)
    spaced = [t for t in study.trials if "agreement" in t.user_attrs]
    assert spaced
    for trial in spaced:  # evidence recall of the records was computed by the evaluation, on its own
        assert trial.user_attrs["agreement"] == pytest.approx(trial.user_attrs["evidence_recall"], abs=1e-6)
    assert max(proxy.agreement) == max(t.user_attrs["agreement"] for t in spaced)


@parametrize(
    "options",
    [
        {"goals": ("accuracy", "tokens"), "keep": (4, 72), "sampler": "nsga2"},
        {"goals": ("tokens",), "keep": (4, 72), "max_loss": 60.0, "sampler": "gp", "space": ("weights",)},
        {"goals": ("quality", "latency"), "space": ("weights", "prompt"), "sampler": "random"},
        {"space": ("weights", "mass"), "sampler": "tpe"},
        {"space": ("vispruner",), "open": ("important_ratio=0.1:0.9",)},
    ],
    ids=lambda options: "-".join(options.get("goals", options.get("space"))),
)
def test_other_goals_samplers_and_spaces(tiny, tmp_path, options):
    config = EvalConfig(Identity(), model=tiny, split="search", limit=22, max_new_tokens=2, out=tmp_path)
    plan = SearchPlan(trials=12, candidates=10, **options)
    folder = StudyFolder("s", tmp_path)
    study = search(folder, config, plan)
    assert len(study.trials) >= 12
    found = winners(study)
    assert found
    if "max_loss" in options:
        assert found[0].user_attrs["accuracy_loss"] <= 60
        assert found[0].user_attrs["constraints"] == {"accuracy loss": found[0].user_attrs["accuracy_loss"] - 60}
    test = confirm(folder, config, plan, study)
    labels = {trial.params["scorer"] for trial in test.get_trials(states=(optuna.trial.TrialState.COMPLETE,))}
    assert len([label for label in labels if label.startswith(("winner", "front"))]) == len(found)


def test_a_search_without_a_feasible_trial_says_so(tiny, tmp_path):
    config = EvalConfig(Identity(), model=tiny, split="search", limit=11, max_new_tokens=2, out=tmp_path)
    plan = SearchPlan(trials=2, goals=("tokens",), max_loss=-100.0, proxy="none", space=("weights",))
    folder = StudyFolder("s", tmp_path)
    study = search(folder, config, plan)
    assert winners(study) == []
    assert confirm(folder, config, plan, study) is None
    assert "there is no winner: allow a larger --max-loss" in report(study, None, config)


def test_another_model_under_the_same_name_is_refused(tiny, tmp_path):
    config = EvalConfig(Identity(), model=tiny, split="search", limit=11, max_new_tokens=2, out=tmp_path)
    plan = SearchPlan(trials=1, proxy="none", space=("weights",))
    search(StudyFolder("s", tmp_path), config, plan)
    with pytest.raises(OutputError, match=r"exists with another configuration:\n  checkpoint: other than there"):
        search(
            StudyFolder("s", tmp_path),
            EvalConfig(Identity(), split="search", limit=11, max_new_tokens=2, out=tmp_path),
            plan,
        )
