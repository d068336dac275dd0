"""Addresses of the documentation in errors and help lead to pages that exist, because a wheel has no docs."""

import re
import tomllib
from pathlib import Path

import pytest

from foveate.core.documents import BENCHMARKS, OWN_DATA, page, site
from foveate.core.errors import DataError
from foveate.data.names import parsed, table_of

ROOT = Path(__file__).parents[2]
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
SOURCES = {path: path.read_text() for path in (ROOT / "src").rglob("*.py")}


def test_pages_lie_below_the_address_of_the_metadata():
    assert site() == URLS["Documentation"]
    for name in (OWN_DATA, BENCHMARKS):
        assert page(name) == f"{URLS['Documentation'].removesuffix('index.md')}{name}.md"
        assert (ROOT / f"docs/{name}.md").exists()


def test_every_address_in_the_source_is_that_of_a_page():
    beginning = re.escape(site().removesuffix("index.md"))
    named = {name for text in SOURCES.values() for name in re.findall(rf"{beginning}([\w/]+)\.md", text)}
    assert {OWN_DATA, BENCHMARKS} <= named
    assert [name for name in named if not (ROOT / f"docs/{name}.md").exists()] == []


def test_no_path_of_a_page_stands_without_its_address():
    beginning = site().removesuffix("docs/index.md")
    bare = rf"(?<!{re.escape(beginning)})docs/\w+/\w+\.md"
    assert [path.name for path, text in SOURCES.items() if re.search(bare, text)] == []


def test_errors_about_tables_name_the_page():
    with pytest.raises(DataError, match=re.escape(page(OWN_DATA))):
        parsed("nothing")
    table = table_of("./nothing.csv")
    assert table
    with pytest.raises(DataError, match=re.escape(page(OWN_DATA))):
        _ = table.location
