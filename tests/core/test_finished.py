"""A finished command is remembered as long as every file is as it was."""

import os
import time

import pytest

from foveate.core.finished import NAME, command_of, remember, remembered

COMMAND = "one command"


@pytest.fixture
def made(tmp_path):
    """A study with an input, remembered; returns the study's folder, the input and a result elsewhere."""
    study, weights, records = (tmp_path / name for name in ("study", "model/weights", "records/run/part"))
    for path in (study / "table.csv", weights, records):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("content")
    past = time.time() - 60
    os.utime(weights, (past, past))
    remember(study, COMMAND, "printed\n", [weights.parent], [study, records.parent], begun=past + 30)
    return study, weights, records


def test_a_command_without_the_devices_that_it_had_is_another_command(monkeypatch):
    before = command_of({"device": "auto"})
    assert command_of({"device": "auto"}) == before
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "none")
    assert command_of({"device": "auto"}) != before
    monkeypatch.undo()
    monkeypatch.setattr("platform.node", lambda: "another")
    assert command_of({"device": "auto"}) != before


def test_what_was_printed_is_given_back(made):
    assert remembered(made[0], COMMAND) == "printed\n"


def test_another_command_is_not_remembered(made):
    assert remembered(made[0], "another command") is None
    assert remembered(made[0].parent / "nothing", COMMAND) is None


@pytest.mark.parametrize("which", [0, 1, 2], ids=["table", "input", "record"])
@pytest.mark.parametrize("change", ["edited", "touched", "removed"])
def test_a_file_that_is_not_as_it_was_makes_the_command_run(made, which, change):
    study, *others = made
    path = [study / "table.csv", *others][which]
    match change:
        case "edited":
            path.write_text("content and more")
        case "touched":
            os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
        case "removed":
            path.unlink()
    assert remembered(study, COMMAND) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"command": "one command"}', '{"command": "one command", "files": 1}', "\0"]
)
def test_a_note_that_cannot_be_read_makes_the_command_run(made, text):
    (made[0] / NAME).write_text(text)
    assert remembered(made[0], COMMAND) is None


def test_a_command_whose_input_changed_while_it_ran_is_not_remembered(tmp_path):
    (tmp_path / "weights").write_text("new")
    remember(tmp_path / "study", COMMAND, "printed", [tmp_path / "weights"], [], begun=time.time() - 60)
    assert remembered(tmp_path / "study", COMMAND) is None


def test_commands_differ_by_their_arguments_and_their_folder(tmp_path, monkeypatch):
    one = command_of({"keep": (1, 2), "limit": None})
    assert one == command_of({"limit": None, "keep": (1, 2)}) != command_of({"keep": (1, 3), "limit": None})
    monkeypatch.chdir(tmp_path)
    assert command_of({"keep": (1, 2), "limit": None}) != one
