"""Hooks of mkdocs: they run the tutorials, and lead links to files of the repository outside `docs` to the web."""

import posixpath
import re
import sys
from functools import cache
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # mkdocs loads this file by its path
from docs.blocks import BlockError, run_blocks  # noqa: E402

_run_once = cache(run_blocks)  # `mkdocs serve` builds all pages again
_OUTSIDE = re.compile(r"\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Returns a page in which relative links to files outside `docs` lead to the repository on the web.

    Raises:
        PluginError: The repository has no such file, or a block of a tutorial fails.
    """
    if page.file.src_uri.startswith("tutorials/"):
        try:
            _run_once(page.file.src_uri, markdown)
        except BlockError as error:
            raise PluginError(str(error)) from error

    def address(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), link[1]))
        if path.startswith("docs/"):
            return link[0]
        if not (ROOT / path).exists():
            raise PluginError(
                f"{page.file.src_uri}: link {link[1]!r} leads to {path}, which does not exist; correct it"
            )
        return f"]({config.repo_url.rstrip('/')}/blob/main/{path}{link[2] or ''})"

    return _OUTSIDE.sub(address, markdown)
