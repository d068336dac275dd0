"""A recommendation as a user runs it."""

import json

import pytest

from tests.scripts import run

FILES = ("study.db", "recipe.json", "table.csv", "table.md", "race.csv", "kinds.csv", "frontier.png")
PLAN = ("--limit", "210", "--max-loss", "20", "--methods", "vtc_cls", "--keep", "0.5", "0.25")


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("recommend")
    result = run("recommend", "--model", tiny, "--out", str(out), *PLAN)
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def test_the_recommendation_writes_what_its_help_promises(finished):
    out, printed = finished
    assert [name for name in FILES if not (out / "recommend" / name).is_file()] == []
    assert "36 equivalent tokens** of 144 (25.0 %)" in printed  # a random model loses nothing
    assert "18 images that the choice did not see" in printed
    assert "fixed sequence" in (out / "recommend" / "table.md").read_text()


def test_the_same_command_says_the_same(finished, tiny):
    out, printed = finished
    again = run("recommend", "--model", tiny, "--out", str(out), *PLAN)
    assert again.stdout == printed
    assert "Nothing was left to do" in again.stderr


def test_its_recipe_file_answers_and_compares(finished, tiny):
    out, _ = finished
    recipe = out / "recommend" / "recipe.json"
    options = ("--model", tiny, "--limit", "14", "--out", str(out))
    answered = run("answer_benchmark", "--method", str(recipe), *options)
    assert answered.returncode == 0, answered.stderr
    compared = run("compare_methods", "--methods", str(recipe), "--keep", "0.5", *options)
    assert compared.returncode == 0, compared.stderr
    assert "recipe" in (out / "compare_methods" / "table.csv").read_text()
    assert json.loads(recipe.read_text())["origin"]["images"] == 18


def test_too_few_images_end_in_one_line(tiny, tmp_path):
    result = run("recommend", "--model", tiny, "--out", str(tmp_path), "--limit", "70", "--max-loss", "1")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "6 images to confirm on cannot show a loss below 39.3 points" in result.stderr
