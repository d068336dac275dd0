"""Faults that tests guard against are named at the tests, and the page of faults is made of the marks."""

import ast
from pathlib import Path

import pytest

from tests.guards import PAGE, _fault, marks, page

SUBJECTS = {  # of the faults that were made by hand
    "checksum": 2,
    "records": 2,
    "atomic rename": 3,
    "identity": 5,
    "padding mask": 2,
    "tie rule": 1,
    "split separation": 2,
}


def test_the_page_of_faults_is_made_of_the_marks():
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.guards"


@pytest.mark.parametrize("subject", SUBJECTS)
def test_no_fault_has_lost_its_guard(subject):
    faults = {fault for fault, _ in marks() if fault.startswith(f"{subject}: ")}
    assert len(faults) >= SUBJECTS[subject]


def test_every_mark_is_at_a_test():
    assert [test for _, test in marks() if not test.rpartition("::")[2].startswith("test_")] == []


@pytest.mark.parametrize("mark", ["guards()", "guards(1)", "guards('a', 'b')", "guards(fault='a')"])
def test_a_mark_that_names_no_fault_is_refused_with_its_line(mark):
    call = ast.parse(f"pytest.mark.{mark}", mode="eval").body
    assert isinstance(call, ast.Call)
    with pytest.raises(ValueError, match=r"test_x.py:1: .* names no fault"):
        _fault(call, Path("test_x.py"))
