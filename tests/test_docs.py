"""The docs: the site builds strictly and without network, and links lead to files and headings."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jaxtyping
import pytest

import foveate
from docs.blocks import BlockError, blocks_of, run_blocks
from foveate import compressors, mergers, reductions, scorers, selectors
from foveate.commands.names import COMMANDS
from foveate.methods import METHODS
from tests.tiers import extended, parametrize

ROOT = Path(__file__).parents[1]
RUN_ELSEWHERE = ("docs/how_to/families.md",)  # tests/models/families/test_documentation.py, on tiny checkpoints
PAGES = ["README.md", "CONTRIBUTING.md", *(str(page.relative_to(ROOT)) for page in sorted(ROOT.glob("docs/**/*.md")))]
WITH_BLOCKS = [page for page in PAGES if page not in RUN_ELSEWHERE and "```python" in (ROOT / page).read_text()]
TESTED = [page for page in WITH_BLOCKS if not page.startswith("docs/tutorials/")]  # the site is built with the others
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
LOADED = re.compile(r"""<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="(https?:[^"]*)""")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr  # strict: a broken link or anchor is an error
    return folder


@extended("site")
def test_the_site_has_every_page_and_loads_nothing_from_the_web(site):
    pages = {page.relative_to(ROOT / "docs").with_suffix(".html") for page in (ROOT / "docs").rglob("*.md")}
    assert pages <= {page.relative_to(site) for page in site.rglob("*.html")}
    assert {page.name: LOADED.findall(page.read_text()) for page in site.rglob("*.html")} == {
        page.name: [] for page in site.rglob("*.html")
    }


@extended("site")
def test_the_reference_has_every_public_name_plug_in_recipe_and_command(site):
    pages = "".join(page.read_text() for page in (site / "reference").glob("*.html"))
    values = {name: getattr(foveate, name) for name in foveate.__all__ if name != "METHODS"} | dict(METHODS)
    for package in (scorers, selectors, mergers, reductions, compressors):
        values |= {name: getattr(package, name) for name in package.__all__}
    ids = {name: f'id="{value.__module__}.{value.__qualname__}"' for name, value in values.items()}
    assert [name for name, anchor in ids.items() if anchor not in pages] == []
    assert [
        name for name in COMMANDS if f"usage: foveate {name}" not in pages and f">foveate {name}<" not in pages
    ] == []


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_a_page_beside_the_site_lead_to_files_and_headings(name):
    for path, anchor in LINK.findall(CODE.sub("", (ROOT / name).read_text())):
        file = ROOT / (path or name)
        assert file.exists(), f"{name} links to {path}, which does not exist"
        assert not anchor or anchor in anchors(file), f"{name} links to #{anchor}, which {file.name} has not"


@pytest.mark.parametrize(("name", "most"), [("README.md", 900), ("CONTRIBUTING.md", 1300)])
def test_a_page_beside_the_site_is_short(name, most):
    words = len((ROOT / name).read_text().split())
    assert words <= most, f"{name} has {words} words; move some to docs/, at most {most} are allowed"


@parametrize("page", TESTED, fast=["README.md", "docs/getting_started.md"])
def test_the_blocks_of_a_page_run_and_print_what_the_page_says(page):
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", page.endswith("exported_program.md"))  # exports trace sizes as symbols
    try:
        run_blocks(page, (ROOT / page).read_text())
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def test_a_block_that_fails_and_one_that_prints_something_else_are_named_with_their_line():
    failing = "# A page\n\n```python\n1 / 0\n```\n"
    with pytest.raises(BlockError, match=r"a.md: the block at line 4 fails: ZeroDivisionError"):
        run_blocks("a.md", failing)
    run_blocks("a.md", failing.replace("```python", "<!-- not run: it fails -->\n```python"))
    printing = "<!-- run\nx = 1\n-->\n\n```python\nprint(x)\n```\n\n```text\n{}\n```\n"
    run_blocks("a.md", printing.format(1))
    with pytest.raises(BlockError, match="line 6 prints\n1\n"):
        run_blocks("a.md", printing.format(2))


def test_every_block_is_found():
    for page in WITH_BLOCKS:
        text = (ROOT / page).read_text()
        shown = [block for block in blocks_of(text) if f"```python\n{block.code}" in text]
        assert len(shown) == text.count("```python"), page
