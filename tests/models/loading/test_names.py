"""A name that can only be a path must be that of a folder; others may be hub IDs."""

import pytest

from foveate.core.errors import UnsupportedModel
from foveate.models.loading.load import load
from foveate.models.loading.names import SHIPPED, check_model


@pytest.mark.parametrize(
    "name", ["./nomodel", "../nomodel", "/nowhere/nomodel", "~/nomodel", "folder/of/models", "/\0"]
)
def test_a_path_without_a_folder_is_an_error_about_the_folder(name):
    with pytest.raises(UnsupportedModel, match=r"there is no such folder.*expected 'reference', the folder of a ch"):
        check_model(name)


def test_the_error_of_loading_does_not_speak_of_the_hub_as_the_place_of_a_path(tmp_path):
    with pytest.raises(UnsupportedModel, match="there is no such folder") as raised:
        load(tmp_path / "nomodel")
    assert "reachable" not in str(raised.value)


def test_a_file_is_no_checkpoint(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UnsupportedModel, match="is a file: expected the folder"):
        check_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", [*SHIPPED, "nobody/nomodel", "nomodel"])
def test_a_name_that_may_be_a_hub_id_is_left_to_the_hub(name):
    check_model(name)


def test_a_folder_is_one_wherever_it_lies(tmp_path, monkeypatch):
    (tmp_path / "one/two/three").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in (tmp_path, "./one", "one/two/three"):
        check_model(name)
