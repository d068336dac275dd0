"""Hooks of mkdocs: links from pages to files of the repository outside `docs`."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
_OUTSIDE = re.compile(r"\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Returns a page in which relative links to files outside `docs` lead to the repository on the web.

    Raises:
        PluginError: The repository has no such file.
    """

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
