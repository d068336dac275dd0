"""The undocumented names of transformers that foveate uses."""

import ast
from pathlib import Path

import pytest
from torch import nn

import foveate
from foveate.core.errors import UnsupportedModel
from foveate.models.backbone import internals
from foveate.models.backbone.internals import INTERNALS, cache_argument, internal, missing_internals

DOCUMENTED = {"transformers", "transformers.modeling_outputs", "transformers.utils.logging"}
SOURCE = Path(foveate.__file__).parent


def test_the_installed_transformers_has_all_of_them():
    assert missing_internals() == {}


def test_the_error_names_the_one_that_is_missing_and_its_use(monkeypatch):
    monkeypatch.setitem(INTERNALS, "masking_utils.no_such_name", "nothing")
    assert list(missing_internals()) == ["masking_utils.no_such_name"]
    with pytest.raises(
        UnsupportedModel, match=r"transformers \S+ has no masking_utils.no_such_name.*for nothing: install"
    ):
        internal("masking_utils.no_such_name")


def test_they_are_imported_nowhere_else():
    """Packages for tests and training are excluded, because users of a model do not run them.

    What the server takes from that of transformers is named in `tests/serving/test_seams.py`.
    """
    found = {}
    for path in SOURCE.rglob("*.py"):
        if path.relative_to(SOURCE).parts[0] in ("testing", "reference", "serving"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if private := [name for name in names if name.split(".")[0] == "transformers" and name not in DOCUMENTED]:
                found[path.name] = private
    assert found == {}


def test_each_of_them_is_used():
    sources = "".join(p.read_text() for p in SOURCE.rglob("*.py") if p != Path(internals.__file__))
    assert [name for name in INTERNALS if name.rpartition(".")[2] not in sources] == []


class Old(nn.Module):
    def forward(self, states, past_key_values=None, use_cache=False):
        return states


class New(nn.Module):
    def forward(self, states, cache=None, use_cache=False):
        return states


class Other(nn.Module):
    def forward(self, states, memory=None):
        return states


def test_the_argument_of_the_key_value_cache_is_found_by_its_name():
    assert (cache_argument(Old()), cache_argument(New())) == ("past_key_values", "cache")
    with pytest.raises(
        UnsupportedModel, match=r"Other.forward takes states, memory: expected an argument cache or past_key_values"
    ):
        cache_argument(Other())
