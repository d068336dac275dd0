"""Recipe files in place of methods' names."""

import json
import warnings

import pytest

import foveate
from foveate.core.errors import BudgetError, RecipeError, UnknownMethod
from foveate.methods import fastv, vtc_cls
from foveate.methods.fitting import at_budget, at_budgets, for_model, method, own_budgets
from foveate.methods.registry import label_of, parts_of
from foveate.testing.families import llava_next


@pytest.fixture(scope="module")
def loaded(tiny):
    return foveate.load(tiny)


@pytest.fixture
def path(tmp_path):
    vtc_cls(keep=5, start_layer=0).save(tmp_path / "mine.json")
    return str(tmp_path / "mine.json")


def test_a_file_is_a_method_with_a_budget_of_its_own(path, loaded):
    adapter = loaded.adapter
    assert for_model(path, None, {}, adapter) == at_budget(path, None, adapter) == foveate.load_recipe(path)
    with pytest.raises(BudgetError, match=r"mine\.json: keep=3: the budget of a recipe file stands in the file"):
        for_model(path, 3, {}, adapter)


def test_its_budget_is_added_to_those_of_a_comparison_unless_one_is_near(path):
    assert own_budgets([path, "fastv"], [12, 3], 16, 4) == [5]
    assert own_budgets([path], [6], 16, 4) == []


def test_a_budget_that_the_file_does_not_have_is_named(path, loaded):
    found, unable = at_budgets([path, "random"], [2], loaded.adapter, loaded.adapter.tower.grid.patches)
    assert set(found) == {(path, 5), ("random", 2), ("random", 5)}
    assert "nearest are 5" in unable[path, 2]


def test_variants_follow_the_name_of_a_file(path):
    assert parts_of(f"{path}+per_tile") == (path, ["per_tile"])
    assert method(f"{path}+per_tile")() == vtc_cls(keep=5, start_layer=0).tiled(per_tile=True)
    with pytest.raises(UnknownMethod, match="'tiles' is unknown"):
        parts_of(f"{path}+tiles")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("vtc_cls", "vtc_cls"),
        ("./mine.py:mine", "mine"),
        ("runs/a+b/recipe.json", "recipe"),
        ("recipe.json+per_tile", "recipe+per_tile"),
    ],
)
def test_the_label_of_a_method_is_short(name, label):
    assert label_of(name) == label


def test_a_file_that_does_not_exist_is_named():
    with pytest.raises(UnknownMethod, match=r"there is no file 'none\.json'; expected the path of a recipe file"):
        parts_of("none.json")


def test_a_file_that_is_no_recipe_is_named(tmp_path):
    (tmp_path / "kept.json").write_text('{"format": 1, "images": []}')
    with pytest.raises(RecipeError, match="it is no recipe"):
        method(str(tmp_path / "kept.json"))


def test_only_another_model_is_warned_of(tmp_path, loaded):
    path = tmp_path / "recipe.json"
    fastv(keep=4, layer=1).save(path, loaded)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        foveate.load_recipe(path, loaded)
        foveate.load_recipe(path, loaded.model)
        for_model(str(path), None, {}, loaded.adapter)
    content = json.loads(path.read_text())
    content["model"]["checkpoint"] = "another"
    path.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=rf"another model \(checkpoint {loaded.identity} instead of another\)"):
        for_model(str(path), None, {}, loaded.adapter)
    with pytest.warns(UserWarning, match=r"chosen for another model \(type llava_next instead of llava, "):
        foveate.load_recipe(path, llava_next())
