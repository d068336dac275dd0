"""Prints the table of faults that tests guard against, from the marks at the tests: `python -m tests.guards`."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "explanation" / "guards.md"

_OPENING = """# What breaks when it is broken

Each of these faults was made by hand, one at a time, and the test beside it failed. A test names its faults itself, by
`@pytest.mark.guards("<what>: <how it is broken>")`; `python -m tests.guards` makes this page of them.

| broken | test |
| --- | --- |
"""


def marks() -> Iterator[tuple[str, str]]:
    """Yields the fault and the test, as `path::name`, of every mark, read without importing the tests.

    Raises:
        ValueError: A mark holds anything but one text.
    """
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.guards":
                    yield _fault(mark, path), f"{path.relative_to(ROOT).as_posix()}::{node.name}"


def page() -> str:
    """Returns the page with one row per fault, in alphabetical order."""
    tests = defaultdict(list)
    for fault, test in marks():
        tests[fault].append(test)
    rows = [f"| {fault} | {', '.join(f'`{test}`' for test in tests[fault])} |" for fault in sorted(tests)]
    return _OPENING + "\n".join(rows) + "\n"


def _fault(mark: ast.Call, path: Path) -> str:
    match mark.args, mark.keywords:
        case [ast.Constant(value=str(fault))], []:
            return fault
    raise ValueError(f'{path}:{mark.lineno}: {ast.unparse(mark)} names no fault; write guards("<what>: <how>")')


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(page(), end="")
