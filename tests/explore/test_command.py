"""The command `foveate explore`: what it imports, and its errors."""

import pytest

from tests.scripts import run
from tests.test_starting import HEAVY, imported
from tests.tiers import parametrize

RUN = "import sys; sys.argv[:1] = ['foveate', 'explore']; from foveate.__main__ import main; main()"
LISTED = RUN.replace("; main()", "\ntry: main()\nexcept SystemExit as e: print('\\nended', e.code)\n") + (
    "print('\\nmodules', *sys.modules)"
)


@parametrize(
    ("options", "status"),
    [("--help", 0), ("--methods vtc_cls(keep=x)", 2), ("--index -1", 2), ("--methods fastvv", 2), ("nothing.png", 2)],
    fast=[("--help", 0), ("--methods vtc_cls(keep=x)", 2)],
)
def test_help_and_an_error_in_an_option_import_nothing_heavy(options, status):
    modules, said = imported(LISTED, *options.split())
    assert f"ended {status}" in said
    assert not modules & (HEAVY | {"gradio"})


def test_without_gradio_the_extra_is_named():
    ended = run("-c", RUN, before="import sys; sys.modules['gradio'] = None", timeout=120)
    assert ended.returncode == 2
    assert "pip install 'foveate[explore]'" in ended.stderr


@pytest.mark.parametrize("port", ["0", "65536"])
def test_a_port_that_does_not_exist_is_refused(port):
    ended = run("-c", RUN, "--port", port, timeout=60)
    assert ended.returncode == 2 and f"port {port}: expected 1 to 65535" in ended.stderr
