"""Every sentence of `docs/explanation/guarantees.md` names a test, and every named test exists."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def named(text, heading):
    """(path, name) of the tests that a section names as `path::name`."""
    section = re.split(rf"^## {heading}\n", text, flags=re.MULTILINE)[1].split("\n## ")[0]
    return section, re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", section)


def there(path, name):
    tree = ast.parse((ROOT / path).read_text())
    return any(isinstance(node, ast.FunctionDef) and node.name == name for node in ast.walk(tree))


def test_every_sentence_to_rely_on_names_tests_that_exist():
    section, tests = named((ROOT / "docs" / "explanation" / "guarantees.md").read_text(), "What you can rely on")
    rows = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| ---")][1:]
    assert len(rows) >= 20
    for row in rows:
        assert re.search(r"`tests/[\w/]+\.py::\w+`", row), row
    assert [test for test in tests if not there(*test)] == []
