"""The commands `foveate serve` and `foveate loadtest`: what their help and errors import."""

import pytest

from tests.test_starting import HEAVY, imported

LISTED = (
    "import sys; sys.argv[:1] = ['foveate']; from foveate.__main__ import main\n"
    "try: main()\nexcept SystemExit as e: print('\\nended', e.code)\nprint('\\nmodules', *sys.modules)"
)


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ("serve --help", 0),
        ("serve full --port 70000", 2),
        ("serve full --largest-mib 0", 2),
        ("loadtest --help", 0),
        ("loadtest full --rounds 0", 2),
    ],
)
def test_help_and_an_error_in_an_option_import_nothing_heavy(options, status):
    modules, printed = imported(LISTED, *options.split())
    assert f"ended {status}" in printed
    assert not modules & (HEAVY | {"fastapi", "openai", "locust"})
