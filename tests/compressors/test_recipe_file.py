"""Recipe files: every compressor of the package comes back equal, and no file can run or break anything."""

import json
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from importlib.resources import files

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

import foveate
from foveate.compressors import DecoderCompressor, Fallback, Pipeline, VisionCompressor, recipe_file
from foveate.compressors.recipe_file import ChosenFor, RecipeFile, content_of, known_classes, parsed
from foveate.core.budget import Floor
from foveate.core.errors import FoveateError, OutputError, RecipeError
from foveate.core.needs import ClsRows
from foveate.methods import METHODS
from foveate.methods.fitting import BUDGETLESS, options_for
from foveate.scorers import ClsAttention, Hybrid, PromptAttention, Random
from foveate.selectors import PerTile, TopK

SCHEMA = json.loads(files("foveate.compressors").joinpath("recipe.schema.json").read_text())
METHOD = VisionCompressor(ClsAttention(3), 16)
CHOSEN = ChosenFor("llava", 8, 8, 144, "abc")


def through_a_file(compressor, folder):
    compressor.save(folder / "recipe.json")
    return foveate.load_recipe(folder / "recipe.json")


def recipes():
    for name in METHODS:
        recipe = METHODS[name]
        yield name, recipe() if name in BUDGETLESS else recipe(keep=16, **options_for(recipe, 8, 8))


@pytest.mark.parametrize(("name", "compressor"), [*recipes()])
@pytest.mark.guards("recipe files: a field is not written")
def test_every_method_comes_back_equal(name, compressor, tmp_path):
    found = through_a_file(compressor, tmp_path)
    assert found == compressor
    assert repr(found) == repr(compressor)
    jsonschema.validate(json.loads((tmp_path / "recipe.json").read_text()), SCHEMA)


@pytest.mark.parametrize(
    "compressor",
    [
        VisionCompressor(Hybrid((ClsAttention(2), Random(3)), (0.25, 0.75)), 0.5, PerTile(TopK()), separators=False),
        Pipeline((METHOD, DecoderCompressor(PromptAttention(2), Floor(0.3), 4))),
        Fallback(METHOD, (0, 1, 2, 3), 2),
    ],
    ids=["hybrid", "pipeline", "fallback"],
)
def test_combined_compressors_come_back_equal(compressor, tmp_path):
    assert through_a_file(compressor, tmp_path) == compressor


def test_all_plug_ins_of_the_package_have_one_name_each():
    classes = known_classes()
    assert {"ClsAttention", "TopK", "Drop", "Bipartite", "VisionCompressor", "LayersFrom", "Capped"} <= set(classes)
    assert len({*classes.values()}) == len(classes) > 50


@dataclass(frozen=True)
class Mine(foveate.Scorer):
    layer: int = 0

    needs = (ClsRows((-1,)),)

    def score(self, trace):
        return trace[self.needs[0]].mean((1, 2))


def test_a_class_of_ones_own_is_refused_and_says_how_to_register_it(tmp_path):
    with pytest.raises(RecipeError, match=r"compressor\.scorer is a .*test_recipe_file\.Mine.*foveate\.classes"):
        VisionCompressor(Mine(), 4).save(tmp_path / "recipe.json")
    assert not [*tmp_path.iterdir()]


def test_a_registered_class_of_an_installed_package_comes_back_equal(tmp_path, monkeypatch):
    point = EntryPoint("my_layer", f"{__name__}:Mine", "foveate.classes")
    monkeypatch.setattr(recipe_file, "installed_plugins", lambda group: {"my_layer": point})
    monkeypatch.setattr(recipe_file, "import_plugin", lambda group, name: point.load())
    compressor = VisionCompressor(Mine(5), 4)
    assert through_a_file(compressor, tmp_path) == compressor
    assert json.loads((tmp_path / "recipe.json").read_text())["compressor"]["scorer"] == {
        "class": "my_layer",
        "layer": 5,
    }


def changed(**changes):
    return json.loads(json.dumps(content_of(RecipeFile(METHOD, "mine", CHOSEN)) | changes))


def scored(**scorer):
    return changed(compressor={"class": "VisionCompressor", "keep": 4, "scorer": scorer})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected an object with format, name and compressor"),
        (changed(format=2), "format is 2, written by foveate '.*': expected 1; update foveate"),
        (changed(format="1"), "format is '1': expected 1"),
        (changed(extra=1), "extra is unknown; known are format"),
        (changed(name=""), "name is ''"),
        (changed(origin=3), "origin is 3"),
        (changed(model={"type": "llava"}), "model.tower_depth is missing"),
        (changed(model=vars(CHOSEN) | {"patches": "many"}), "model.patches is 'many': expected int"),
        (changed(compressor={"class": "TopK"}), "compressor is .*: expected an object with the class of one"),
        (changed(compressor=7), "compressor is 7"),
        (changed(compressor={"class": "VisionCompressor", "keep": 4}), "compressor.scorer is missing"),
        (scored(**{"class": "os.system"}), r"compressor\.scorer\.class is 'os\.system': no class of foveate"),
        (scored(**{"class": "foveate.scorers:ClsAttention"}), r"compressor\.scorer\.class"),
        (scored(**{"class": ["ClsAttention"]}), r"compressor\.scorer\.class"),
        (scored(**{"class": "TopK"}), r"compressor\.scorer is .*: expected Scorer"),
        (scored(**{"class": "ClsAttention", "layer": "last"}), "layer='last': expected"),
        (scored(**{"class": "ClsAttention", "layer": 1, "depth": 2}), r"compressor\.scorer\.depth is unknown"),
        (scored(**{"class": "ClsAttention", "layer": {"class": "TopK"}}), r"compressor\.scorer\.layer is"),
    ],
)
def test_a_file_that_is_no_recipe_names_the_value(content, message, tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(content))
    with pytest.raises(RecipeError, match=message) as error:
        foveate.load_recipe(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "damaged, or no JSON"),
        (b'{"format": 1, "name": "x", "compres', "damaged, or no JSON"),
        (b"\xff\xfe{}", "damaged, or no JSON"),
        (b"[" * 100_000, "damaged, or no JSON"),
        (b" " * 1_000_001, "more than 1,000,000 bytes"),
        (b'{"format": 1, "format": 1}', "a key twice"),
        (b'{"format": NaN}', "NaN is no number"),
        (b'{"format": 1, "name": "x", "compressor": ' + b"[" * 50 + b"]" * 50 + b"}", "more than 40 values inside"),
        (b'{"format": 1, "name": "x", "compressor": ' + b"9" * 5000 + b"}", "damaged, or no JSON"),
    ],
)
def test_a_damaged_file_ends_in_one_line(text, message, tmp_path):
    (tmp_path / "recipe.json").write_bytes(text)
    with pytest.raises(RecipeError, match=message):
        foveate.load_recipe(tmp_path / "recipe.json")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "recipe.json", tmp_path, "a\0b.json"):
        with pytest.raises(RecipeError, match="cannot be read"):
            foveate.load_recipe(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["class", "layer", "keep"]), inner),
    max_leaves=8,
)


@given(place=st.sampled_from(["scorer", "keep", "selector", "merger", "positions", "class"]), value=json_values)
def test_any_value_in_place_of_another_is_accepted_or_refused_in_one_line(place, value):
    content = changed()
    content["compressor"][place] = value
    try:
        parsed(content)
    except FoveateError as error:
        assert "\n" not in str(error)


def test_a_name_that_does_not_end_in_json_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"ends in \.json"):
        METHOD.save(tmp_path / "recipe")


def test_a_file_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        METHOD.save(tmp_path / "file" / "recipe.json")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (CHOSEN, ""),
        (ChosenFor("llava", 8, 8, 144), ""),
        (ChosenFor("llava", 8, 8, 144, "def"), "checkpoint def instead of abc"),
        (ChosenFor("llava_next", 24, 8, 144), "type llava_next instead of llava, tower_depth 24 instead of 8"),
    ],
)
def test_another_model_is_told_from_the_one_that_a_recipe_was_chosen_for(other, said):
    assert RecipeFile(METHOD, "mine", CHOSEN).misfit(other) == said
    assert RecipeFile(METHOD, "mine").misfit(other) == ""
