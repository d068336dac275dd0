"""Every mode of decoding equals the oracle or is refused as `docs/reference/decoding.md` says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from foveate.testing.decoding import COMPRESSIONS, MODES, USUAL, Mode, cell, exceptions
from foveate.testing.families import FAMILIES
from tests.oracle.reference import reference
from tests.tiers import extended, parametrize

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "decoding.md"
QUICK = [mode for mode in MODES if "compile" not in mode.name]  # compiling takes a minute


def promised(text: str | None = None) -> dict[str, list[str]]:
    """Returns the cells of each mode in a table (by default that of the docs), with the errors of refused modes."""
    text = DOCS.read_text() if text is None else text
    sentences = dict(re.findall(r"^(\d+)\. (.*)$", text, re.MULTILINE))
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    return {
        name: [re.sub(r"^refused \((\d+)\)$", lambda sign: f"refused: {sentences[sign[1]]}", cell) for cell in cells]
        for name, *cells in rows
    }


def test_the_docs_list_every_mode_and_nothing_differs():
    assert list(promised()) == [mode.name for mode in MODES]
    assert "differs" not in DOCS.read_text()


@pytest.mark.parametrize("mode", QUICK, ids=lambda mode: mode.name)
def test_a_mode_works_or_is_refused_as_the_docs_say(mode: Mode):
    assert [cell(mode, compression, reference) for compression in COMPRESSIONS] == promised()[mode.name]


@extended("every")
def test_compiled_passes_work_as_the_docs_say():
    """Runs in a process of its own without checks of shapes, which cannot be compiled."""
    command = [sys.executable, "-m", "tests.oracle", "torch.compile"]
    found = subprocess.run(command, cwd=DOCS.parents[1], capture_output=True, text=True, check=True).stdout
    assert promised(found) == {"`torch.compile`": promised()["`torch.compile`"]}


@parametrize("family", [name for name in FAMILIES if name != USUAL], fast=("Qwen3-VL",))
def test_other_families_differ_only_as_the_docs_say(family):
    listed = [line for line in DOCS.read_text().splitlines() if line.startswith(f"- {family}, ")]
    assert exceptions(reference, family, QUICK) == listed


@pytest.mark.parametrize("family", ["LLaVA-1.5", "Qwen3-VL"])
def test_a_wrong_answer_is_found(family):
    """A reference with shifted logits must differ."""

    def wrong(setting, run, answers):
        return [logits.roll(1, 0) for logits in reference(setting, run, answers)]

    for mode in MODES[:3]:
        assert cell(mode, COMPRESSIONS[0], wrong, family).startswith("differs: logits of prompt 0")
