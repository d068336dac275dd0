"""A recommendation on the shipped model: what it confirms, what it writes, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import foveate
from foveate.analysis.recommendation.data import kinds_table, race_table
from foveate.analysis.recommendation.report import report
from foveate.analysis.records import read_records
from foveate.compressors import Identity
from foveate.core.errors import DataError, FoveateError, OptionError
from foveate.evaluation import EvalConfig
from foveate.methods import vtc_cls
from foveate.studies.non_inferiority import p_value
from foveate.studies.plan import RecommendationPlan
from foveate.studies.recommendation import SIMPLE, recommend
from foveate.studies.study_folder import StudyFolder

PLAN = RecommendationPlan(max_loss=25, methods=("vtc_cls",), keep=(0.9, 0.25))


def config_in(out, limit=350):
    return EvalConfig(Identity(), limit=limit, out=out, batch_size=56)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("recommendation")


@pytest.fixture(scope="module")
def found(out):
    return recommend(StudyFolder("recommend", out), config_in(out), PLAN)


@pytest.fixture(scope="module")
def text(found):
    return report(found)


@pytest.mark.guards("recommendation: the race sees images of the confirmation")
def test_no_image_of_the_race_confirms(found):
    result = found
    assert not set(result.race.images) & set(result.confirming)
    assert len(result.race.images) == 20
    assert len(result.confirming) == 30
    assert all(len(step.losses.lost) == 30 for step in result.steps)
    assert race_table(result)["images"].max() == 20


def test_the_confirmed_losses_are_those_of_the_records(found, out):
    result = found
    for step in result.steps:
        full = read_records(out, result.race.full).set_index("sample_id")
        own = read_records(out, result.trial(step.key).user_attrs["run_id"]).set_index("sample_id")
        own = own[own["image_id"].isin(list(result.confirming))]
        lost = (full.loc[own.index, "score"] - own["score"]).groupby(own["image_id"]).sum()
        np.testing.assert_allclose(sorted(step.losses.lost), sorted(lost), atol=1e-12)
        assert step.p == p_value(step.losses, 0.25)
        assert step.passed == (step.p <= 0.05)


def test_a_setting_that_loses_too_much_leaves_the_race_early(found, out):
    result = found
    trial = next(trial for trial in result.study.trials if trial.params["scorer"] == "downsample")
    assert "it loses" in trial.user_attrs["stopped"]
    assert read_records(out, trial.user_attrs["run_id"])["image_id"].nunique() == 16
    assert race_table(result).query("method == 'downsample'").iloc[0]["images"] == 16


def test_smaller_budgets_of_a_hopeless_method_are_skipped(found):
    result = found
    skipped = {t.params["scorer"]: t.user_attrs["skipped"] for t in result.study.trials if "skipped" in t.user_attrs}
    assert skipped["downsample"] == "downsample loses too much with 130 tokens"


def test_the_recipe_file_holds_the_recommended_compressor_and_where_it_comes_from(found, text, out):
    result = found
    path = out / "recommend" / "recipe.json"
    assert foveate.load_recipe(path) == result.compressor_of(result.trial(result.chosen.key))
    content = json.loads(path.read_text())
    origin, row = content["origin"], pd.read_csv(out / "recommend" / "table.csv").query("passed").iloc[-1]
    assert content["model"]["type"] == "llava"
    assert origin["loss"] == pytest.approx([row["loss"], row["low"], row["high"]])
    assert origin["loss"][0] == pytest.approx(result.chosen.losses.mean, abs=1e-6)
    assert origin["loss"][0] < origin["loss_excluded_from"] <= 0.25 + 1e-4
    assert (origin["images"], origin["confidence"], origin["data"]) == (30, 0.95, "scenes")


def test_the_text_names_the_setting_its_loss_and_the_worst_kind(found, text):
    result = found
    trial = result.trial(result.chosen.key)
    worst = kinds_table(result, result.chosen).iloc[0]
    assert f"**{trial.user_attrs['family']} with {trial.params['keep']} equivalent tokens** of 144" in text
    assert "images that the choice did not see" in text
    assert f"{worst['kind']!r} loses most" in text


def test_kinds_of_questions_are_weighted_as_in_the_whole(found):
    result = found
    kinds = kinds_table(result, result.chosen)
    assert np.average(kinds["loss"], weights=kinds["n"]) == pytest.approx(result.chosen.losses.mean)
    assert kinds["loss"].is_monotonic_decreasing


def test_the_same_command_again_answers_nothing_and_says_the_same(found, text, out):
    before = {path: path.stat().st_mtime_ns for path in (out / "records").rglob("*.parquet")}
    assert report(recommend(StudyFolder("recommend", out), config_in(out), PLAN)) == text
    assert before == {path: path.stat().st_mtime_ns for path in (out / "records").rglob("*.parquet")}


def test_no_setting_qualifies_where_all_lose_too_much(out, found):
    plan = RecommendationPlan(max_loss=10, methods=("fastv",), keep=(0.11,))
    result = recommend(StudyFolder("none", out), config_in(out), plan)
    said = report(result)
    assert "No setting qualifies" in said
    assert "Every setting loses more than that in the race." in said
    assert not (out / "none" / "recipe.json").exists()


def test_too_few_images_are_named_before_anything_is_answered(tmp_path):
    with pytest.raises(DataError, match=r"30 images to confirm on cannot show a loss below 9\.5 points.*at least 299"):
        recommend(StudyFolder("recommend", tmp_path), config_in(tmp_path), RecommendationPlan(max_loss=1))
    assert not (tmp_path / "records").exists()


def test_controls_race_as_simple_settings_and_oracles_do_not(found):
    result = found
    raced = {trial.params["scorer"].partition("[")[0] for trial in result.study.trials}
    assert raced == {"vtc_cls", *SIMPLE}


def test_a_recipe_file_can_race(tmp_path, out, found):
    vtc_cls(keep=100, start_layer=0).save(tmp_path / "mine.json")
    plan = RecommendationPlan(max_loss=25, methods=(str(tmp_path / "mine.json"),), keep=(0.9,))
    result = recommend(StudyFolder("file", out), config_in(out), plan)
    assert {("mine", 100)} <= {(t.params["scorer"], t.params["keep"]) for t in result.study.trials}


def test_layers_of_the_tower_can_race(out, found):
    plan = RecommendationPlan(max_loss=25, methods=(), layers=("cls[0:]", "cls[3]"), keep=(0.9,))
    result = recommend(StudyFolder("layers", out), config_in(out), plan)
    assert {"cls[0:]", "cls[3]"} <= {trial.params["scorer"] for trial in result.study.trials}


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (RecommendationPlan(max_loss=0), "max_loss=0: expected points of accuracy"),
        (RecommendationPlan(confidence=1), "confidence=1: expected a share from 0.5"),
        (RecommendationPlan(race_share=1), "race_share=1: expected a share"),
        (RecommendationPlan(rounds=1), "rounds=1: expected 3 or more"),
        (RecommendationPlan(methods=("fastvv",)), "'fastvv' is unknown"),
        (RecommendationPlan(keep=(1.5,)), "a fraction lies in"),
    ],
)
def test_a_plan_names_the_value_that_is_wrong(plan, message):
    with pytest.raises(FoveateError, match=message):
        plan.check()


def test_measured_aims_refuse_several_processes(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    plan = RecommendationPlan(max_loss=25, aim="latency")
    with pytest.raises(OptionError, match="leave --workers out"):
        recommend(StudyFolder("recommend", tmp_path), config_in(tmp_path), plan)


@pytest.mark.parametrize("aim", ["latency", "memory"])
def test_what_is_measured_decides_between_settings(aim, out, found):
    plan = RecommendationPlan(max_loss=25, methods=("vtc_cls",), keep=(0.9,), aim=aim, batch=2, new_tokens=2, rounds=3)
    result = recommend(StudyFolder(aim, out), config_in(out), plan)
    assert result.full_cost > 0
    assert all(result.costs[step.key] < result.full_cost for step in result.steps)
    said = report(result)
    if result.chosen:
        assert {"latency": "ms per question", "memory": "MiB peak"}[aim] in said


def test_the_figure_is_written(text, out):
    assert Path(out / "recommend" / "frontier.png").stat().st_size > 10_000
